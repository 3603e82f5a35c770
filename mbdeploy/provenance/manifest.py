"""The manifest of an output folder: the sha256 of every artifact, of its sidecar and its parents, tools and host."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance, Sidecar
from mbdeploy.decoding import decode_json
from mbdeploy.errors import DataError
from mbdeploy.results import ModelRef

MANIFEST = "manifest.json"


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact was made from: its sha256, and the file of the folder that it is ("" for one from outside)."""

    sha256: str
    file: str = ""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One artifact: its own sha256 and its sidecar's, the stage that made it, the freshness key and the parents."""

    sha256: str
    size_bytes: int
    sidecar_sha256: str
    stage: str
    key: str
    parents: dict[str, Parent]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Every artifact of a folder by its path in it, the versions of the tools that made them, and this machine."""

    artifacts: dict[str, Entry]
    tools: dict[str, str]
    host: dict[str, str]
    schema_version: int = 1


def list_sidecars(folder: Path) -> dict[str, Path]:
    """The artifacts that have a sidecar (path in the folder -> the sidecar), there or not; hidden files are left out.

    A sidecar is a JSON file whose name is another file's with ``.json`` behind it: it says so itself, or that file
    is there.
    """
    found = {}
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts):
            continue
        vouched = path.with_suffix("")
        sidecar = artifact.read_sidecar(vouched)
        if vouched.is_file() or (sidecar is not None and sidecar.file == vouched.name):
            found[name.with_suffix("").as_posix()] = path
    return found


def describe_folder(folder: Path) -> Manifest:
    """The manifest that ``folder`` should have now: a pure function of its files and of this machine.

    An artifact whose sidecar cannot be read, or that is not there, is left out.
    """
    sidecars = {name: artifact.read_sidecar(folder / name) for name in list_sidecars(folder)}
    whole = {name: one for name, one in sidecars.items() if one is not None and (folder / name).is_file()}
    digests = {name: artifact.hash_file(folder / name) for name in whole}
    places = {sha256: name for name, sha256 in sorted(digests.items(), reverse=True)}
    tools = {tool: version for one in whole.values() for tool, version in one.provenance.tools.items()}
    return Manifest(
        artifacts={name: _describe(folder / name, one, digests[name], places) for name, one in sorted(whole.items())},
        tools=dict(sorted(tools.items())),
        host={
            "machine": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
        },
    )


def vouch_for_folder(folder: Path) -> Path:
    """Write ``manifest.json`` over what lies in ``folder`` now, unless the one there says the same of its artifacts.

    So a run in which all was fresh leaves the manifest, and a signature of it, as they are: on another host too.

    Raises:
        OutputError: it cannot be written.
    """
    path, found = folder / MANIFEST, describe_folder(folder)
    try:
        there = read_manifest(folder)
    except DataError:
        there = None
    if there is None or there.artifacts != found.artifacts:
        artifact.write_json(path, found)
    return path


def renew_manifest(folder: Path) -> None:
    """Let a manifest that is in ``folder`` name what was added to it, changed or removed since; none is begun.

    Raises:
        OutputError: it cannot be written.
    """
    if (folder / MANIFEST).is_file():
        vouch_for_folder(folder)


def vouch_for_result(path: Path, result: Any, provenance: Provenance | None = None) -> None:
    """Write the sidecar of a saved result: as its stage planned it, else with the models that it names as parents."""
    if provenance is None:
        tools = artifact.read_tools("numpy", "onnxruntime")
        parents = {f"model {index}": ref for index, ref in enumerate(_list_models(msgspec.to_builtins(result)))}
        provenance = Provenance(stage=path.stem, params={}, parents=parents, tools=tools)
    artifact.write_sidecar(path, provenance, None)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of ``folder``; None where there is none.

    Raises:
        DataError: one that cannot be read, or that names a file outside.
    """
    path = folder / MANIFEST
    try:
        manifest = decode_json(path.read_bytes(), Manifest)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise _refuse(path, str(error)) from error
    for name in manifest.artifacts:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise _refuse(path, f"{name!r}, which lies outside")
    return manifest


def _list_models(plain: Any) -> list[str]:
    """The sha256 of every model in a saved result, each once, in order."""
    if isinstance(plain, dict):
        own = [str(plain["sha256"])] if plain.keys() == set(ModelRef.__struct_fields__) else []
        return list(dict.fromkeys([*own, *(one for value in plain.values() for one in _list_models(value))]))
    if isinstance(plain, list | tuple):
        return list(dict.fromkeys(one for value in plain for one in _list_models(value)))
    return []


def _describe(path: Path, sidecar: Sidecar, sha256: str, places: Mapping[str, str]) -> Entry:
    return Entry(
        sha256=sha256,
        size_bytes=path.stat().st_size,
        sidecar_sha256=artifact.hash_file(artifact.sidecar_path(path)),
        stage=sidecar.provenance.stage,
        key=sidecar.key,
        parents={
            role: Parent(sha256=parent, file=places.get(parent, ""))
            for role, parent in sorted(sidecar.provenance.parents.items())
        },
    )


def _refuse(path: Path, found: str) -> DataError:
    return DataError(
        where=path, expected="a manifest as `mbdeploy run` writes it", found=found, todo="make it with `mbdeploy run`"
    )
