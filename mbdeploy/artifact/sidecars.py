"""What vouches for a file: its sidecar, with its digest, what it was made from, and the key that says it is fresh."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbdeploy.artifact.atomic import sync_folder, write_bytes
from mbdeploy.decoding import decode_json
from mbdeploy.errors import DataError, MbdeployError, refuse_output
from mbdeploy.results import decode_result, encode_result

T = TypeVar("T")
#: What makes most results again.
REMAKE = "mbdeploy run --force STAGE"


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """How a file came to be: the stage, what it was told, what it read (sha256 by role), with which tools."""

    stage: str
    params: dict[str, Any]
    parents: dict[str, str]
    tools: dict[str, str]

    @property
    def key(self) -> str:
        """The freshness key: sha256 of everything above. Equal keys mean the stage need not run again."""
        plain = msgspec.json.encode(msgspec.to_builtins(self), order="deterministic")
        return hashlib.sha256(plain).hexdigest()


class Sidecar(msgspec.Struct, frozen=True, kw_only=True):
    """What lies beside ``NAME.onnx`` as ``NAME.onnx.json``: identity, provenance and the stage's record."""

    file: str
    sha256: str
    size_bytes: int
    key: str
    provenance: Provenance
    record: msgspec.Raw = msgspec.Raw(b"null")
    schema_version: int = 1


def digest_file(path: Path) -> str:
    """The sha256 of a file, as 64 hexadecimal digits; read once a process, as long as size and time stay the same."""
    stat = path.stat()
    return _digest_content(str(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)


@functools.lru_cache(maxsize=65536)
def _digest_content(path: str, size: int, mtime_ns: int, ctime_ns: int, inode: int) -> str:
    return hash_file(Path(path))


def hash_file(path: Path) -> str:
    """The sha256 of a file as it is now, whatever was read of it before."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_digest(error: type[MbdeployError], where: object, found: str, wanted: str) -> None:
    """Refuse a file, or a data set, that is not the one that the work was given out for.

    Raises:
        MbdeployError: an ``error``, if it is another.
    """
    if found != wanted:
        raise error(
            where=where,
            expected=f"the files that the run began with (sha256 {wanted[:12]}…)",
            found=f"others (sha256 {found[:12]}…)",
            todo="let every worker see the same files, and run again",
        )


def read_tools(*packages: str) -> dict[str, str]:
    """Installed versions of these distributions and of mbdeploy, read without importing them."""
    return {name: _read_version(name) for name in ("mbdeploy", *packages)}


def sidecar_path(path: Path) -> Path:
    """Where the sidecar of ``path`` lies: ``NAME.onnx.json`` beside ``NAME.onnx``."""
    return path.with_name(path.name + ".json")


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar of ``path``; None if there is none, or none that can be read: then nothing is fresh."""
    try:
        return decode_json(sidecar_path(path).read_bytes(), Sidecar)
    except (OSError, msgspec.MsgspecError):
        return None


def is_fresh(path: Path, provenance: Provenance) -> bool:
    """Whether ``path`` is what this stage would write again: same key, and the bytes its sidecar vouches for."""
    sidecar = read_sidecar(path)
    if sidecar is None or sidecar.key != provenance.key:
        return False
    try:
        return path.stat().st_size == sidecar.size_bytes and digest_file(path) == sidecar.sha256
    except OSError:  # it is not there, or went away while it was read
        return False


def write_json(final: Path, value: Any) -> None:
    """Write a struct or plain data as indented JSON, whole or not at all."""
    _write_indented(final, encode_result(value))


def write_sidecar(path: Path, provenance: Provenance, record: Any) -> Sidecar:
    """Vouch for ``path``, which has its final name already: write its sidecar, as the stage's last act.

    Raises:
        OutputError: the file went away, or the sidecar cannot be written.
    """
    try:
        sha256, size_bytes = hash_file(path), path.stat().st_size  # cached ones may be of another write in this tick
    except OSError as error:
        raise refuse_output(path, error) from error
    sidecar = Sidecar(
        file=path.name,
        sha256=sha256,
        size_bytes=size_bytes,
        key=provenance.key,
        provenance=provenance,
        record=msgspec.Raw(encode_result(record)),
    )
    _write_indented(sidecar_path(path), msgspec.json.encode(sidecar))
    return sidecar


def write_result(path: Path, provenance: Provenance, result: Any) -> None:
    """Write a result as JSON, and vouch for it."""
    write_json(path, result)
    write_sidecar(path, provenance, None)


def keep_result(path: Path, provenance: Provenance, kind: type[T], work: Callable[[], Any]) -> T:
    """The result that lies at ``path`` if it is fresh; else what ``work`` gives, written there."""
    if not is_fresh(path, provenance):
        write_result(path, provenance, work())
    return read_result(path, kind)


def read_result(path: Path, kind: type[T], command: str = REMAKE) -> T:
    """A saved result, which ``command`` makes again.

    Raises:
        DataError: it is not there, or cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise refuse_result(path, (error.strerror or str(error)).lower(), command) from error
    return decode_saved(path, data, kind, command)


def decode_saved(path: Path, data: bytes | msgspec.Raw, kind: type[T], command: str = REMAKE) -> T:
    """A result, or a sidecar's record, that was read from ``path``.

    Raises:
        DataError: it is none.
    """
    try:
        return decode_result(bytes(data), kind)
    except msgspec.MsgspecError as error:
        raise refuse_result(path, str(error), command) from error


def refuse_result(path: Path, found: str, command: str = REMAKE) -> DataError:
    """The error for a file that is no result of ours, or not a whole one."""
    return DataError(
        where=path,
        expected="a result as this version of mbdeploy writes it",
        found=found,
        todo=f"make it again with `{command}`",
    )


def move_made(made: Path, final: Path) -> None:
    """Give a file that was made in a lent folder, under its own name, and its sidecar their final place."""
    made.replace(final)
    sidecar_path(made).replace(sidecar_path(final))
    sync_folder(final.parent)


def _write_indented(final: Path, encoded: bytes) -> None:
    write_bytes(final, msgspec.json.format(encoded, indent=1) + b"\n")


def _read_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"
