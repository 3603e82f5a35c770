"""NumPy's .npy and .npz files: what a header declares is held against the bytes that are there, and the limits."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.errors import name_cause
from mbdeploy.preflight.external import check_file
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name
from mbdeploy.preflight.zips import DAMAGED, opening_zip

_MAGIC = b"\x93NUMPY"
#: Version -> the bytes of the header's length, and who reads what follows. Others are for structured types.
_VERSIONS = {
    b"\x01\x00": (2, np.lib.format.read_array_header_1_0),
    b"\x02\x00": (4, np.lib.format.read_array_header_2_0),
}
_LONGEST_HEADER = 10_000  # NumPy's own limit, which it holds against a header that it has read already
_MOST_ARRAYS = 100_000
_ENDING = ".npy"
#: Truth values, numbers and text. Objects are pickles, structures and dates nothing that is written here.
_KINDS = "biufcU"
_CHUNK_BYTES = 1 << 20
_TEXT_BYTES = 64  # what an element of text takes more once it is a str
_TODO = "write the file anew"


class Header(msgspec.Struct, frozen=True, eq=False):
    """What an array declares of itself; its data start at ``offset`` and are just the ``size_bytes`` that follow."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int
    size_bytes: int


class Arrays(msgspec.Struct, frozen=True, eq=False):
    """The arrays of an open .npz file by name, none of them read yet."""

    path: Path
    archive: zipfile.ZipFile
    names: tuple[str, ...]
    bounds: Bounds

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[tuple[Header, IO[bytes]]]:
        """The header of an array, and the stream that stands behind it.

        Raises:
            KeyError: there is none of this name. ModelError: as ``read_header``.
        """
        if name not in self.names:
            raise KeyError(f"{name} is not a file in the archive")
        member = self.archive.getinfo(name + _ENDING)
        with self.archive.open(member) as stream:
            yield read_header(stream, member.file_size, f"{show_name(name)} of {self.path.name}", self.path), stream

    def read(self, *names: str) -> list[NDArray[Any]]:
        """These arrays, in memory: together no more than ``max_memory``, which is seen before the first is read.

        Raises:
            KeyError: there is none of this name. ModelError: as ``read_header``, too many bytes, or damaged ones.
        """
        total = 0
        for name in names:
            with self.open(name) as (header, _):
                total += header.size_bytes + (math.prod(header.shape) * _TEXT_BYTES if header.dtype.kind == "U" else 0)
        if total > self.bounds.max_memory:
            raise refuse_more(self.path, self.bounds, "max_memory", "bytes in its arrays", show_bytes(total))
        found = []
        for name in names:
            with self.open(name) as (header, stream):
                found.append(_read_data(stream, header, self.path))
        return found


@contextlib.contextmanager
def opening_arrays(path: Path, bounds: Bounds | None = None) -> Iterator[Arrays]:
    """Open a .npz file; what zipfile and NumPy make of damaged bytes is refused.

    Raises:
        ModelError: as ``opening_zip``, or a member that is no array.
    """
    bounds = bounds or current_bounds()
    with opening_zip(path, bounds, most=_MOST_ARRAYS) as archive:
        names = archive.namelist()
        other = next((name for name in names if not name.endswith(_ENDING)), None)
        if other is not None:
            raise refuse(path, f"members called *{_ENDING}", show_name(other), _TODO)
        yield Arrays(path, archive, tuple(name.removesuffix(_ENDING) for name in names), bounds)


def read_header(stream: IO[bytes], size_bytes: int, what: str, where: object) -> Header:
    """The header of an array in ``size_bytes`` of ``stream``.

    Rules: 1. a header of NumPy's, of 10,000 bytes at most. 2. Truth values, numbers or text; never objects, which are
    pickles. 3. The shape in elements of that type is just as many bytes as follow.

    Raises:
        ModelError: one of these does not hold.
    """
    start = stream.read(len(_MAGIC) + 2)
    width, parse = _VERSIONS.get(start[len(_MAGIC) :], (0, None))
    if not start.startswith(_MAGIC) or parse is None:
        raise refuse(where, f"an array as NumPy writes it in {what}", f"{start[:8]!r} in its place", _TODO)
    count = stream.read(width)
    length = int.from_bytes(count, "little")
    if length > _LONGEST_HEADER:  # 1.
        raise refuse(where, f"a header of at most {_LONGEST_HEADER:,} bytes in {what}", f"{length:,}", _TODO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of headers that Python 2 wrote, and reads them
            shape, fortran, dtype = parse(io.BytesIO(count + stream.read(length)))
    except Exception as error:  # whatever a literal, and a type by its name, can raise
        raise refuse(where, f"the header of an array in {what}", name_cause(error), _TODO) from error
    if dtype.hasobject or dtype.kind not in _KINDS or dtype.itemsize == 0:  # 2.
        raise refuse(where, f"truth values, numbers or text in {what}", f"dtype {dtype}", _TODO)
    offset = len(start) + width + length
    declared = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or declared != size_bytes - offset:  # 3.
        found = f"{size_bytes - offset} bytes of data where shape {shape} needs {show_bytes(declared)}"
        raise refuse(where, f"as many bytes as {what} declares", found, _TODO)
    return Header(shape, fortran, dtype, offset, declared)


@contextlib.contextmanager
def opening_array(path: Path, bounds: Bounds | None = None) -> Iterator[tuple[Header, IO[bytes]]]:
    """The header of a .npy file, and the stream that stands behind it.

    Raises:
        ModelError: no plain file, or as ``read_header``.
    """
    size = check_file(path, bounds or current_bounds())
    try:
        with path.open("rb") as stream:
            yield read_header(stream, size, path.name, path), stream
    except OSError as error:
        raise refuse(path, "a file that can be read", (error.strerror or str(error)).lower(), _TODO) from error


def read_array(path: Path, bounds: Bounds | None = None) -> NDArray[Any]:
    """The array of a .npy file, in memory.

    Raises:
        ModelError: no plain file, as ``read_header``, or more than ``max_memory``.
    """
    bounds = bounds or current_bounds()
    with opening_array(path, bounds) as (header, stream):
        if header.size_bytes > bounds.max_memory:
            raise refuse_more(path, bounds, "max_memory", "bytes in an array", show_bytes(header.size_bytes))
        return _read_data(stream, header, path)


def map_array(path: Path, bounds: Bounds | None = None) -> NDArray[Any]:
    """The array of a .npy file, mapped: it takes disk space, not memory.

    Raises:
        ModelError: no plain file, or as ``read_header``.
    """
    with opening_array(path, bounds) as (header, stream):
        order = "F" if header.fortran else "C"
        if header.size_bytes == 0:
            return np.empty(header.shape, header.dtype)
        return np.memmap(stream, header.dtype, "r", header.offset, header.shape, order)  # type: ignore[call-overload, no-any-return]


def _read_data(stream: IO[bytes], header: Header, where: object) -> NDArray[Any]:
    try:
        flat = np.empty(math.prod(header.shape), header.dtype)
        view = flat.view(np.uint8).data
        done = 0
        while done < len(view):
            chunk = stream.read(min(_CHUNK_BYTES, len(view) - done))
            if not chunk:
                raise EOFError(f"only {done} of {len(view)} bytes")
            view[done : done + len(chunk)] = chunk
            done += len(chunk)
    except DAMAGED as error:
        raise refuse(
            where, f"{show_bytes(header.size_bytes)} bytes that can be read", name_cause(error), _TODO
        ) from error
    if flat.dtype.kind == "U":  # Python makes no str of what is no letter, and NumPy does not look
        letters = flat.view(np.dtype(np.uint32).newbyteorder(flat.dtype.byteorder))
        if letters.max(initial=0) > sys.maxunicode:
            raise refuse(where, "text", f"a letter of the number {int(letters.max()):,}", _TODO)
    return flat.reshape(header.shape[::-1]).T if header.fortran else flat.reshape(header.shape)
