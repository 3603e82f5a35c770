"""Files that are there whole or not at all: temporary name, fsync, rename; scratch folders, and folders held alone."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from mbdeploy.errors import DISK_FULL, OutputError, refuse_output

_TEMPORARY = ".mbdeploy-tmp"
_NUMBERS = itertools.count()
#: What a write says that names no file (``write`` and ``fsync`` know only a handle).
_WRITE_FAILED = (*DISK_FULL, errno.EIO, errno.EROFS)


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
        sync_folder(final.parent)
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


def sync_folder(folder: Path) -> None:
    """Let renames in a folder outlive a power failure."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
