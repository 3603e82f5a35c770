"""Same inputs, same bytes: a run elsewhere, with another home, hash seed and time zone, leaves the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from mbdeploy.model_file import digest_model
from mbdeploy.provenance.checking import verify_artifacts

CARD = """
name = "tiny"
summary = "for this test"
%s
preprocess = { size = %d }
quantization = { calibration = "photos", num_calibration_samples = 3 }
"""
SEEDED = 'net = "mobilenet_v1"\nargs = { alpha = 0.25 }\nweights = { seed = 0 }'
#: What is measured, and so is another number every time: results, pages that show them, and these keys of a sidecar.
MEASURED_FILES = {"results/parity.json", "results/bench.json", "report.html", "report.md"}
MEASURED_KEYS = {"cpu_s", "peak_bytes", "torch_export_s"}


def run_at(place: Path, photos: Path, network: onnx.ModelProto | None, **environment: str) -> Path:
    """Run the card in a folder of its own, then pack the bundle; everything below ``place`` is made here.

    ``network`` is saved there with its weights beside it; None stands for seeded weights of a net of ours.
    """
    for name in ("home", "scratch"):
        (place / name).mkdir(parents=True)
    shutil.copytree(photos, place / "photos")
    source, size = SEEDED, 32
    if network is not None:
        model = onnx.ModelProto()
        model.CopyFrom(network)  # (the writer changes it)
        onnx.save(model, place / "net.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        size = network.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        source = f'weights = {{ file = "net.onnx", sha256 = "{digest_model(place / "net.onnx")}" }}'
    (place / "tiny.toml").write_text(CARD % (source, size))
    quick = ("--fast", "--min-duration", "0.05", "-o", "out")
    for words in (("run", "tiny.toml", *quick), ("bundle", "./out", "--all", "-o", "out/tiny.zip")):
        subprocess.run(
            [sys.executable, "-m", "mbdeploy.cli", *words],
            cwd=place,
            check=True,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "HOME": str(place / "home"),
                "TMPDIR": str(place / "scratch"),
                **environment,
            },
        )
    return place / "out"


def read_plain(path: Path, name: str) -> Any:
    """What must be equal of a file: its bytes; of a sidecar and the manifest, all that is not measured."""
    if name == "manifest.json":
        entries = json.loads(path.read_bytes())["artifacts"]
        return {key: {**entry, "sidecar_sha256": ""} for key, entry in entries.items() if key not in MEASURED_FILES} | {
            "names": sorted(entries)
        }
    if name.endswith(".json"):
        sidecar = json.loads(path.read_bytes())
        sidecar["record"] = {k: v for k, v in (sidecar["record"] or {}).items() if k not in MEASURED_KEYS}
        if name.removesuffix(".json") in MEASURED_FILES:
            return sidecar["provenance"]["tools"]
        return sidecar
    return path.read_bytes()


@pytest.mark.sweep
@pytest.mark.parametrize("kind", ["seeded", "external data"])
def test_the_same_inputs_give_the_same_bytes_in_another_place_and_another_environment(
    tmp_path: Path, photo_folder: Path, kind: str, make_conv_model: Callable[..., onnx.ModelProto]
) -> None:
    network = make_conv_model(size=96, width=32, seed=4) if kind == "external data" else None
    first = run_at(tmp_path / "a", photo_folder, network, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    place = tmp_path / "b c" / "deep"
    second = run_at(place, photo_folder, network, PYTHONHASHSEED="4711", TZ="Asia/Kathmandu", LANG="C.UTF-8")
    names = [{path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} for out in (first, second)]
    assert names[0] == names[1] and {"int8.onnx", "golden.npz", "tiny.zip", "manifest.json"} <= names[0]
    for name in sorted(names[0] - MEASURED_FILES):
        assert read_plain(first / name, name) == read_plain(second / name, name), name
    for out in (first, second):
        assert verify_artifacts(out).holds
        assert not [path for path in (out.parent / "scratch").rglob("*") if path.is_file()]
