"""The bundle stage: one archive with a model, what it must answer, and the program that checks it where it lands."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.card import Budgets, load_card
from mbdeploy.decoding import decode_json
from mbdeploy.errors import CardError, DataError, ModelError
from mbdeploy.provenance.sbom import describe_environment
from mbdeploy.results import encode_result
from mbdeploy.stages.bundle_archive import Content, find_ending, pack, unpack
from mbdeploy.stages.parity import GATES
from mbdeploy.stages.reference import load_reference
from mbdeploy.stages.subject import Subject, read_subjects
from mbdeploy.targets.opsets import find_refusing
from mbdeploy.targets.providers import PROVIDERS, list_wheels

_VARIANTS = ("fp32.onnx", "simplified.onnx", "int8.onnx")
_GOLDEN = "golden.npz"
_MANIFEST = "manifest.json"
_SBOM = "sbom.cdx.json"
_LONGEST_MANIFEST = 16 << 20
#: Files of our own and the names that they have in a bundle.
_PROGRAMS = {"agent.py": "agent.py", "verify.py": "bundle_verify.py"}
_README = """This folder checks itself: `python agent.py verify` needs Python >= 3.9, numpy and onnxruntime.

It runs the models on this machine, compares them with golden.npz and judges them by the budgets in manifest.json,
after it has checked the sha256 of every file. Exit codes: 0 fine, 1 a gate failed, 2 bad input, 3 a provider that is
not here, 4 inconclusive. See `python agent.py verify --help`.
"""


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """One archive: where it is, its sha256, and the sha256 of every file in it. ``judged_by`` says whose the budgets
    are."""

    path: str
    name: str
    sha256: str
    size_bytes: int
    files: dict[str, str]
    budgets: Budgets
    judged_by: str
    schema_version: int = 1


class Opened(msgspec.Struct, frozen=True, kw_only=True):
    """What an unpacked bundle gives ``verify``."""

    models: tuple[Path, ...]
    golden: Path
    budgets: Budgets


class _Manifest(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    models: list[dict[str, Any]]
    golden: str
    budgets: Budgets
    files: dict[str, str]


def bundle(folder: Path, *, output: Path | None = None, all_variants: bool = False) -> Bundle:
    """Pack the INT8 file of ``folder`` (of ``mbdeploy run``), its golden outputs and budgets, and the agent.

    Rules: 1. ``output`` ends in .tar.gz or .zip; without it, it is NAME.tar.gz in ``folder``. 2. ``all_variants`` packs
    the FP32 and the simplified file too. 3. Equal inputs give equal bytes. 4. Budgets are those that the folder's
    parity was judged by, else those of the card that the files name, else the defaults. 5. manifest.json holds them,
    the preprocessing, the gates and the sha256 of every file. 6. sbom.cdx.json lists what is installed here.

    Raises:
        ModelError: a file that is missing or cannot be used.
        DataError: golden outputs that do not fit the models.
        UsageError: a name of another kind.
    """
    paths = [_find(folder, name) for name in (_VARIANTS if all_variants else _VARIANTS[-1:])]
    golden = _find(folder, _GOLDEN)
    subjects = read_subjects(paths)
    images = load_reference(subjects, golden=golden, reference=None, data=None, preprocess=None, num_samples=1 << 31)
    card = model_file.read_metadata(model_file.load_model(paths[0])).get("mbdeploy.card", "")
    budgets, judged_by = _find_budgets(folder, card)
    name = re.sub(r"[^\w.-]", "_", card or folder.resolve().name, flags=re.ASCII).lstrip(".") or "bundle"
    output = output or folder / f"{name}.tar.gz"
    ending = find_ending(output)
    files: dict[str, Content] = {_GOLDEN: golden, "README.txt": _README.encode()}
    for subject in subjects:
        files |= {part: subject.path.parent / part for part in (subject.path.name, *subject.companions)}
    files |= {word: _read_program(file) for word, file in _PROGRAMS.items()}
    files[_SBOM] = _indent(describe_environment())
    manifest = {
        "schema_version": 1,
        "name": name,
        "models": [_describe(subject, budgets) for subject in subjects],
        "golden": _GOLDEN,
        "images": len(images.inputs),
        "budgets": msgspec.to_builtins(budgets),
        "judged_by": judged_by,
        "preprocess": msgspec.to_builtins(next((s.preprocess for s in subjects if s.preprocess), None)),
        "providers": _list_providers(),
        "distributions": [*list_wheels(), "numpy"],
        "files": {file: _digest(content) for file, content in sorted(files.items())},
    }
    files[_MANIFEST] = _indent(manifest)
    with artifact.writing(output) as temporary:
        pack(temporary, ending, {f"{name}/{file}": content for file, content in files.items()})
    return Bundle(
        path=str(output),
        name=name,
        sha256=artifact.digest_file(output),
        size_bytes=output.stat().st_size,
        files={file: _digest(content) for file, content in sorted(files.items())},
        budgets=budgets,
        judged_by=judged_by,
    )


@contextlib.contextmanager
def opening_bundle(path: Path) -> Iterator[Opened]:
    """Unpack a bundle into a folder of its own, check every file of it, and remove the folder afterwards.

    Raises:
        DataError: not a bundle, or one of which a file is missing or another.
    """
    with tempfile.TemporaryDirectory(prefix="mbdeploy-bundle-") as scratch:
        unpack(path, Path(scratch))
        places = list(Path(scratch).glob(f"*/{_MANIFEST}"))
        if len(places) != 1:
            raise _refuse(path, f"{len(places)} of these")
        folder = places[0].parent
        if (size := places[0].stat().st_size) > _LONGEST_MANIFEST:
            raise _refuse(path, f"{_MANIFEST} of {size} bytes")
        try:
            manifest = decode_json(places[0].read_bytes(), _Manifest, strict=False)
            models = [str(model["file"]) for model in manifest.models]
        except (msgspec.MsgspecError, KeyError) as error:
            raise _refuse(path, str(error)) from error
        for name in (*models, manifest.golden, *manifest.files):
            if name not in manifest.files or not _is_inside(folder, name):
                raise _refuse(path, f"{name!r} missing in the bundle")
            if artifact.digest_file(folder / name) != manifest.files[name]:
                raise _refuse(path, f"{name!r}, which is not the file that was bundled")
        yield Opened(
            models=tuple(folder / name for name in models), golden=folder / manifest.golden, budgets=manifest.budgets
        )


def _is_inside(folder: Path, name: str) -> bool:
    try:
        return folder.joinpath(name).resolve().is_relative_to(folder.resolve()) and (folder / name).is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _describe(subject: Subject, budgets: Budgets) -> dict[str, Any]:
    """What the agent must know of a model to judge it."""
    return {
        "file": subject.path.name,
        "kind": subject.kind,
        "refusing": find_refusing(subject.opset, subject.ir_version),
        "output_scales": subject.output_scales,
        "gates": [(metric, comparison, getattr(budgets, key)) for metric, comparison, key in GATES[subject.kind]],
        "exact_gap_db": budgets.int8_exact_gap_db if subject.kind == "int8" else None,
    }


def _list_providers() -> Mapping[str, Any]:
    return {
        word: {
            "ep": row.ep,
            "runtime": row.runtime,
            "options": dict(row.options),
            "machine": row.machine,
            "compiles": row.compiles,
        }
        for word, row in PROVIDERS.items()
    }


def _find_budgets(folder: Path, card: str) -> tuple[Budgets, str]:
    sidecar = artifact.read_sidecar(folder / "results/parity.json")
    if sidecar is not None:
        found = _read_budgets(sidecar.provenance)
        if found is not None:
            return found, "results/parity.json"
    if card:
        with contextlib.suppress(CardError):  # a card of another machine: the files name it, and it is not here
            return load_card(card).budgets, f"card {card}"
    return Budgets(), "defaults"


def _read_budgets(provenance: Provenance) -> Budgets | None:
    try:
        return msgspec.convert(provenance.params.get("budgets"), Budgets)
    except msgspec.ValidationError:
        return None


def _find(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelError(
            where=folder,
            expected=f"{name}, as `mbdeploy run` leaves it",
            found="no such file",
            todo="finish the folder with `mbdeploy run CARD`, or give another one",
        )
    return path


def _indent(value: Any) -> bytes:
    return msgspec.json.format(encode_result(value), indent=1) + b"\n"


def _read_program(name: str) -> bytes:
    return resources.files("mbdeploy.targets").joinpath(name).read_bytes()


def _digest(content: Content) -> str:
    return hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else artifact.digest_file(content)


def _refuse(path: Path, found: str) -> DataError:
    return DataError(
        where=path,
        expected=f"a bundle with one {_MANIFEST} and all the files that it names",
        found=found,
        todo="make it again with `mbdeploy bundle`, or copy it again",
    )
