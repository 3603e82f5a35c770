"""Zip archives before they are unpacked: how many members, how they are packed, and what they would grow to."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.preflight.external import check_file
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name

#: What reading damaged bytes raises; RuntimeError is the word for a password, and for too deep a nesting.
DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    OSError,
    EOFError,
    ValueError,
    OverflowError,
    RuntimeError,
    MemoryError,
)
_MOST_MEMBERS = 100_000
_LARGEST_DIRECTORY = 32 << 20
#: The others unpack all that a read returns at once, however much that is.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 1
_TODO = "make, save or download it again"


class _Gauged(io.FileIO):
    """A file of which at most ``most`` bytes are read at once: zipfile reads a directory whole, whatever its size."""

    most = _LARGEST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(self.most + 1 if size is None or size < 0 else min(size, self.most + 1)) or b""
        if len(found) > self.most:
            raise ValueError(f"a directory of more than {self.most >> 20} MiB")
        return found


@contextlib.contextmanager
def opening_zip(path: Path, bounds: Bounds | None = None, *, most: int = _MOST_MEMBERS) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive that can be read without harm; damage that shows only while it is read is refused as well.

    Rules: 1. a plain file within ``max_file_size``. 2. ``most`` members at most, in a directory of 32 MiB at most, each
    of a name of its own. 3. Members are stored or deflated, without a password. 4. Together they are no more than the
    file, and grow to ``max_file_size`` at most.

    Raises:
        ModelError: one of these does not hold.
    """
    bounds = bounds or current_bounds()
    size = check_file(path, bounds)
    try:
        with _Gauged(path) as file, zipfile.ZipFile(file) as archive:
            file.most = sys.maxsize - 1
            _check_members(path, archive.infolist(), size, bounds, most)
            yield archive
    except DAMAGED as error:
        reason = (getattr(error, "strerror", None) or str(error)).strip() or type(error).__name__
        raise refuse(path, "a whole zip archive", reason.splitlines()[0], _TODO) from error


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int, bounds: Bounds, most: int) -> None:
    if len(members) > most:
        raise refuse(path, f"at most {most:,} members", f"{len(members):,}")
    names: set[str] = set()
    for member in members:
        shown = show_name(member.filename)
        if not member.filename:  # zipfile itself stumbles over it
            raise refuse(path, "members with names", "one without", _TODO)
        if member.filename in names:
            raise refuse(path, "members of different names", f"two called {shown}")
        names.add(member.filename)
        if member.flag_bits & _ENCRYPTED:
            raise refuse(path, "members without a password", f"{shown}, which is encrypted", "unpack and pack it again")
        if member.compress_type not in _METHODS:
            raise refuse(path, "members stored or deflated", f"{shown}, packed by method {member.compress_type}", _TODO)
    grown = sum(member.file_size for member in members)
    if grown > bounds.max_file_size:
        raise refuse_more(path, bounds, "max_file_size", "bytes once unpacked", show_bytes(grown))
    packed = sum(member.compress_size for member in members)
    if packed > size:
        raise refuse(path, f"members within its {size} bytes", show_bytes(packed))
