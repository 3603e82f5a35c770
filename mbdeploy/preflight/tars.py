"""Compressed tar archives, read member after member: how much comes out, and how many, is counted on the way."""

from __future__ import annotations

import gzip
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.errors import MbdeployError, name_cause
from mbdeploy.preflight.external import check_file
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name

#: A member is to be read in pieces of this; tarfile reads a header's extension, whatever size it says, in one.
CHUNK_BYTES = 1 << 20
_MOST_AT_ONCE = 2 * CHUNK_BYTES
_TODO = "make, save or download it again"


class _Gauged:
    """What tarfile reads an archive from: no more at once than a header can need, no more in all than allowed."""

    def __init__(self, stream: gzip.GzipFile, path: Path, bounds: Bounds) -> None:
        self._stream, self._path, self._bounds = stream, path, bounds

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MOST_AT_ONCE:
            raise refuse(self._path, f"headers of at most {_MOST_AT_ONCE:,} bytes", show_bytes(size), _TODO)
        self._check_place(self._stream.tell() + size - _MOST_AT_ONCE)
        return self._stream.read(size)

    def seek(self, place: int, whence: int = 0) -> int:
        self._check_place(place)
        return self._stream.seek(place, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def _check_place(self, place: int) -> None:
        if place > self._bounds.max_file_size:
            raise refuse_more(self._path, self._bounds, "max_file_size", "bytes once unpacked", show_bytes(place))


def _open_tar(gauged: _Gauged) -> tarfile.TarFile:
    return tarfile.open(fileobj=cast(IO[bytes], gauged), mode="r:")


def list_members(path: Path, bounds: Bounds | None = None, *, most: int) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each member of a .tar.gz, to be read before the next one is asked for.

    Rules: 1. a plain file within ``max_file_size``. 2. ``most`` members at most, all of them plain files. 3. Members
    and headers keep to ``max_file_size``, and each member to it by what its header says; a header's extension is 2 MiB
    at most.

    Raises:
        ModelError: one of these does not hold, or damaged bytes.
    """
    bounds = bounds or current_bounds()
    check_file(path, bounds)
    try:
        with gzip.open(path) as stream, _open_tar(_Gauged(stream, path, bounds)) as tar:
            for number, member in enumerate(tar, start=1):
                if number > most:
                    raise refuse(path, f"at most {most:,} members", "more")
                if member.size > bounds.max_file_size:
                    raise refuse_more(path, bounds, "max_file_size", "bytes once unpacked", show_bytes(member.size))
                content = tar.extractfile(member) if member.isreg() and not member.issparse() else None
                if content is None:
                    raise refuse(path, "plain files", f"{show_name(member.name)}, which is no plain file", _TODO)
                yield member.name, content
    except MbdeployError:
        raise
    except Exception as error:  # tarfile raises nearly anything on damaged headers
        raise refuse(path, "a whole .tar.gz archive", name_cause(error), _TODO) from error
