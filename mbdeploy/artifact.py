"""Files that stages make: temporary name, fsync, rename, sidecar last; digests, freshness, locks."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.decoding import decode_json
from mbdeploy.errors import DISK_FULL, OutputError, refuse_output
from mbdeploy.results import encode_result

_TEMPORARY = ".mbdeploy-tmp"
_NUMBERS = itertools.count()
#: What a write says that names no file (``write`` and ``fsync`` know only a handle).
_WRITE_FAILED = (*DISK_FULL, errno.EIO, errno.EROFS)


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


@contextlib.contextmanager
def writing(final: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``final``; on success it is fsynced and renamed, else it is removed.

    Raises:
        OutputError: the folder cannot be made or written, or the disk is full.
    """
    temporary = final.with_name(f".{final.name}.{os.getpid()}.{next(_NUMBERS)}{_TEMPORARY}")  # threads write too
    _make_folder(final.parent, final)
    try:
        temporary.touch()  # a folder that takes no files is found now, not after the work
        temporary.unlink()
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(final)
        _sync_folder(final.parent)
    except OSError as error:
        named = error.filename in (str(temporary), str(final), str(final.parent))
        if not named and (error.filename is not None or error.errno not in _WRITE_FAILED):
            raise  # about something else that the body did
        raise refuse_output(final, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def lending_folder(final: Path) -> Iterator[Path]:
    """Yield a folder for scratch files beside ``final``; it is removed afterwards, with all that it holds.

    Raises:
        OutputError: it cannot be made.
    """
    folder = final.with_name(f".{final.name}.{os.getpid()}.scratch{_TEMPORARY}")
    _make_folder(final.parent, final)
    _clear_away(folder)  # a killed process that had our number may have left one
    _make_folder(folder, final)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_bytes(final: Path, data: bytes) -> None:
    """Write ``data`` under its final name, whole or not at all."""
    with writing(final) as temporary:
        temporary.write_bytes(data)


def write_json(final: Path, value: Any) -> None:
    """Write a struct or plain data as indented JSON, whole or not at all."""
    _write_indented(final, encode_result(value))


def _write_indented(final: Path, encoded: bytes) -> None:
    write_bytes(final, msgspec.json.format(encoded, indent=1) + b"\n")


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


def move_made(made: Path, final: Path) -> None:
    """Give a file that was made in a lent folder, under its own name, and its sidecar their final place."""
    made.replace(final)
    sidecar_path(made).replace(sidecar_path(final))
    _sync_folder(final.parent)


@contextlib.contextmanager
def lock_folder(folder: Path, *, wait_s: float = 0.0) -> Iterator[None]:
    """Hold ``folder`` for this process alone, and clear away what a killed one left half-written.

    Raises:
        OutputError: another process holds it, or it cannot be made or written.
    """
    import filelock

    _make_folder(folder, folder)
    lock = filelock.FileLock(folder / ".lock", timeout=wait_s)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(
            where=folder,
            expected="an output folder that no other mbdeploy uses now",
            found="a lock held by another process",
            todo="wait for it to end, or choose another folder with --output",
        ) from error
    except OSError as error:
        raise refuse_output(folder, error) from error
    try:
        for leftover in folder.rglob(f".*{_TEMPORARY}"):
            if not _is_at_work(leftover):
                _clear_away(leftover)
        yield
    finally:
        lock.release()


def _is_at_work(leftover: Path) -> bool:
    """Whether another process that runs now made this temporary file: single stages write without the lock."""
    numbers = [int(part) for part in leftover.name.removesuffix(_TEMPORARY).split(".")[-2:] if part.isdecimal()]
    if not numbers or os.name != "posix" or numbers[0] == os.getpid():
        return False
    try:
        os.kill(numbers[0], 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True  # somebody else's
    return True


def _clear_away(leftover: Path) -> None:
    if leftover.is_dir() and not leftover.is_symlink():
        shutil.rmtree(leftover, ignore_errors=True)
    else:
        leftover.unlink(missing_ok=True)


def _make_folder(folder: Path, where: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse_output(where, error) from error


def _read_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
