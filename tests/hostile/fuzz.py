"""Coverage-guided fuzzing of what parses foreign bytes in Python: ``fuzz.py [--seconds N] [TARGET ...]``.

Needs atheris (``pip install atheris``; Linux). A finding ends in an exit code that is not 0, with the traceback and the
bytes. Targets: card, sidecar, preflight, archive, metadata; without one named all of them, each in a fork.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 60
_SLOWEST_S = 10
_MOST_MB = 4096


def load_targets(folder: Path) -> dict[str, tuple[Callable[[bytes], None], Iterable[bytes]]]:
    """Target -> what is called with bytes, and the seeds. Only refusals in our own words may come out of it."""
    import onnx
    from google.protobuf.message import DecodeError
    from hostile_corpus.archives import bundle_files, tar_of
    from hostile_corpus.building import sound_model
    from hostile_corpus.control import chain_functions, nest_branches
    from hostile_corpus.datasets import zip_of
    from hostile_corpus.pickles import as_legacy, as_plain_zip, as_torch_zip, make_payloads
    from hostile_corpus.words import CARD, golden_bytes

    from mbdeploy import model_file
    from mbdeploy.artifact import read_sidecar, sidecar_path
    from mbdeploy.bounds import Bounds, bounding
    from mbdeploy.card import load_card
    from mbdeploy.data import open_dataset
    from mbdeploy.errors import CardError, DataError, ModelError
    from mbdeploy.golden import read_golden
    from mbdeploy.preflight import check_archive, check_graph, scan_wire
    from mbdeploy.quant.calibration_file import load_seen
    from mbdeploy.stages.bundle import opening_bundle

    bounds = Bounds(max_nodes=2000, max_memory=1 << 24)

    def read_card(data: bytes) -> None:
        path = folder / "card.toml"
        path.write_bytes(data)
        with contextlib.suppress(CardError):
            load_card(path)

    def read_side(data: bytes) -> None:
        path = folder / "model.onnx"
        sidecar_path(path).write_bytes(data)
        read_sidecar(path)

    def fly(data: bytes) -> None:
        with contextlib.suppress(ModelError, DecodeError):
            scan_wire(data, "fuzz.onnx", bounds)
            check_graph(onnx.ModelProto.FromString(data), folder / "fuzz.onnx", bounds)

    def open_archive(data: bytes) -> None:
        for name in ("weights.pt", "weights.safetensors"):
            (folder / name).write_bytes(data)
            with contextlib.suppress(ModelError):
                check_archive(folder / name, bounds)
        (folder / "arrays.npz").write_bytes(data)
        for load in (read_golden, load_seen, lambda path: open_dataset(path, labelled=True)):
            with contextlib.suppress(DataError), bounding(max_memory=1 << 24):
                load(folder / "arrays.npz")
        for name in ("bundle.zip", "bundle.tar.gz"):
            (folder / name).write_bytes(data)
            with contextlib.suppress(DataError), bounding(max_file_size=1 << 24), opening_bundle(folder / name):
                pass

    def read_entries(data: bytes) -> None:
        model = onnx.ModelProto()
        for key in ("mbdeploy.preprocess", "mbdeploy.labels"):
            model.metadata_props.add(key=key, value=data.decode("utf-8", "replace"))
        for read in (model_file.read_preprocess, model_file.read_labels):
            with contextlib.suppress(ModelError):
                read(model)

    models = [sound_model(), chain_functions(3, 2), nest_branches(2)]
    payload = make_payloads()["os.system"]
    provenance = b'{"stage":"s","params":{},"parents":{},"tools":{}}'
    side = b'{"file":"a","sha256":"0","size_bytes":1,"key":"0","provenance":' + provenance + b"}"
    return {
        "card": (read_card, [CARD.encode()]),
        "sidecar": (read_side, [side]),
        "preflight": (fly, [model.SerializeToString() for model in models]),
        "archive": (
            open_archive,
            [
                *(pack(payload) for pack in (as_torch_zip, as_legacy, as_plain_zip)),
                b"\2" + bytes(7) + b"{}",
                golden_bytes(),
                zip_of(bundle_files()),
                tar_of(bundle_files()),
            ],
        ),
        "metadata": (read_entries, [b'{"size": 32}', b'{"names": ["a"]}']),
    }


def fuzz(target: Callable[[bytes], None], corpus: Path, seconds: int) -> None:
    """Fuzz one target from the seeds in a folder; ends this process, with an exit code that is not 0 for a finding."""
    import atheris

    options = (
        f"-max_total_time={seconds}",
        f"-timeout={_SLOWEST_S}",
        f"-rss_limit_mb={_MOST_MB}",
        "-max_len=65536",
        f"-artifact_prefix={corpus.parent}/",
        "-print_final_stats=1",
    )
    atheris.Setup([sys.argv[0], *options, str(corpus)], target)
    atheris.Fuzz()


def main() -> None:
    """Fuzz the targets one after another, each in a fork of this process, which has loaded them all."""
    import atheris

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=SECONDS, help="for each target")
    arguments = parser.parse_args()
    scratch, parent, failed = Path(tempfile.mkdtemp(prefix="mbdeploy-fuzz-")), os.getpid(), []
    try:
        with atheris.instrument_imports(include=["mbdeploy"]), contextlib.redirect_stdout(io.StringIO()):
            targets = load_targets(scratch)
        for name in arguments.targets or targets:
            target, seeds = targets[name]
            corpus = scratch / name
            corpus.mkdir()
            for number, seed in enumerate(seeds):
                (corpus / str(number)).write_bytes(seed)
            sys.stderr.write(f"fuzzing {name}\n")
            pid = os.fork()
            if pid == 0:
                fuzz(target, corpus, arguments.seconds)
            if os.waitpid(pid, 0)[1] != 0:
                failed.append(name)
        for found in sorted(scratch.glob("*-*")):
            sys.stderr.write(f"{found.name}: {base64.b64encode(found.read_bytes()).decode()}\n")
    finally:
        if os.getpid() == parent:  # a child ends by an exception
            shutil.rmtree(scratch)
    if failed:
        sys.exit(f"found something: {', '.join(failed)}")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
