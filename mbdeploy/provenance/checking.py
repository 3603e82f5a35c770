"""Check an output folder: every artifact against its sidecar, its parents and the manifest, all hashed again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Sidecar
from mbdeploy.errors import DataError
from mbdeploy.provenance.manifest import MANIFEST, Entry, Manifest, list_sidecars, read_manifest, vouch_for_folder
from mbdeploy.provenance.signing import SIGNATURE, sign_file, verify_file

State = Literal["holds", "missing", "changed", "orphaned", "stale"]
#: What a folder of ours has in its own layout, by role: which parent is which file, where no manifest says it.
_LAYOUT: Mapping[str, Mapping[str, str]] = {
    "simplified.onnx": {"model": "fp32.onnx", "golden": "golden.npz"},
    "int8.onnx": {"model": "simplified.onnx"},
    "results/parity.json": {
        "model 0": "fp32.onnx",
        "model 1": "simplified.onnx",
        "model 2": "int8.onnx",
        "golden": "golden.npz",
    },
    "results/bench.json": {"model 0": "simplified.onnx", "model 1": "int8.onnx"},
    "results/bench-confirm.json": {"model 0": "simplified.onnx", "model 1": "int8.onnx"},
    "results/bench-baseline.json": {"model 1": "int8.onnx"},
    **{
        page: {
            "fp32": "fp32.onnx",
            "simplified": "simplified.onnx",
            "int8": "int8.onnx",
            "parity": "results/parity.json",
            "bench": "results/bench.json",
            "explain": "results/explain.json",
            "evaluation": "results/evaluation.json",
            "matrix": "results/matrix.json",
            "calibration": "simplified.calibration/calibration.npz",
        }
        for page in ("report.html", "report.md")
    },
}
#: Files that somebody must vouch for: models, arrays, and what reports are made from.
_VOUCHED = ("*.onnx", "*.npz", "results/*.json")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact, and whether it is what was made. ``missing``: a sidecar or the manifest names it, and it is not
    there. ``changed``: other bytes than those vouched for. ``orphaned``: nobody vouches for it. ``stale``: made from
    a file that has changed since, or changed itself since the manifest was written."""

    file: str
    stage: str
    sha256: str
    state: State
    detail: str = ""


class ArtifactReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every artifact of a folder. ``signed`` is None where no signature was to be checked or made."""

    folder: str
    findings: tuple[Finding, ...]
    manifest: bool
    signed: bool | None
    detail: str
    schema_version: int = 1

    @property
    def holds(self) -> bool:
        """Whether every file is what was made, and the signature, if one was asked for, is good."""
        return all(one.state == "holds" for one in self.findings) and self.signed is not False


def verify_artifacts(folder: Path, *, sign: Path | None = None, verify_key: Path | None = None) -> ArtifactReport:
    """Hash every artifact of ``folder`` again and hold it against its sidecar, its parents and the manifest.

    Rules: 1. a parent that the folder holds must still be the one that was read; a data set or a network from outside
    is not looked up. 2. With ``verify_key`` (a public key, PEM) the manifest must be there and its signature good.
    3. With ``sign`` (a private key, PEM) a folder that holds is signed: its manifest, and so all that it names; it is
    written first if there is none. Both work offline.

    Raises:
        DataError: no such folder, one without artifacts, a manifest or a key that cannot be used.
        UnavailableError: a signature is asked for without the package model-signing.
    """
    if not folder.is_dir():
        raise _refuse(folder, "no such folder")
    manifest = read_manifest(folder)
    findings = tuple(_check_folder(folder, manifest))
    if not findings:
        raise _refuse(folder, "no artifact in it")
    report = ArtifactReport(
        folder=str(folder), findings=findings, manifest=manifest is not None, signed=None, detail=""
    )
    path, signature = folder / MANIFEST, folder / SIGNATURE
    if verify_key is not None:
        reason = verify_file(path, signature, verify_key)
        report = msgspec.structs.replace(report, signed=not reason, detail=reason or f"signed, by {verify_key.name}")
    if sign is not None and report.holds:
        sign_file(path if manifest else vouch_for_folder(folder), signature, sign)
        report = msgspec.structs.replace(report, manifest=True, signed=True, detail=f"signed with {sign.name}")
    elif sign is not None:
        report = msgspec.structs.replace(report, signed=False, detail="not signed: not every file is what was made")
    return report


def _check_folder(folder: Path, manifest: Manifest | None) -> Iterator[Finding]:
    sidecars = {name: artifact.read_sidecar(folder / name) for name in list_sidecars(folder)}
    entries = manifest.artifacts if manifest else {}
    vouched = {path.relative_to(folder).as_posix() for kind in _VOUCHED for path in folder.glob(kind) if path.is_file()}
    names = {*entries, *sidecars, *vouched} - {f"{name}.json" for name in sidecars}  # which lie among results too
    digests = {name: artifact.hash_file(folder / name) for name in names if (folder / name).is_file()}
    for name in sorted(names):
        sidecar, entry = sidecars.get(name), entries.get(name)
        state, detail = _judge(name, folder, sidecar, entry, digests, manifest is not None)
        stage = sidecar.provenance.stage if sidecar else entry.stage if entry else ""
        yield Finding(file=name, stage=stage, sha256=digests.get(name, ""), state=state, detail=detail)


def _judge(
    name: str,
    folder: Path,
    sidecar: Sidecar | None,
    entry: Entry | None,
    digests: Mapping[str, str],
    has_manifest: bool,
) -> tuple[State, str]:
    """The first thing that does not hold, from the file itself to those that it was made from."""
    if name not in digests:
        return "missing", "its sidecar is there" if sidecar else "the manifest names it"
    beside = artifact.sidecar_path(folder / name)
    if not beside.is_file():
        return ("missing", "its sidecar is gone") if entry else ("orphaned", "no sidecar vouches for it")
    if sidecar is None:
        return "changed", "its sidecar cannot be read"
    if sidecar.sha256 != digests[name]:
        return "changed", "other bytes than its sidecar vouches for"
    if sidecar.key != sidecar.provenance.key or sidecar.file != Path(name).name:
        return "changed", "its sidecar was edited"
    if entry is None and has_manifest:
        return "stale", "made after the manifest"
    if entry is not None and entry.sha256 != digests[name]:
        return "stale", "made again after the manifest"
    if entry is not None and entry.sidecar_sha256 != artifact.hash_file(beside):
        return "changed", "its sidecar is not the one of the manifest"
    return _judge_parents(name, sidecar, entry, digests)


def _judge_parents(name: str, sidecar: Sidecar, entry: Entry | None, digests: Mapping[str, str]) -> tuple[State, str]:
    here = set(digests.values())
    for role, sha256 in sorted(sidecar.provenance.parents.items()):
        known = entry.parents[role].file if entry and role in entry.parents else ""
        file = known or _LAYOUT.get(name, {}).get(role, "")
        if sha256 in here or not file:
            continue
        if file not in digests:
            return "stale", f"made from {file}, which is gone"
        return "stale", f"made from another {file}"
    return "holds", ""


def _refuse(folder: Path, found: str) -> DataError:
    return DataError(
        where=folder, expected="an output folder of mbdeploy", found=found, todo="check the path, or use `mbdeploy run`"
    )
