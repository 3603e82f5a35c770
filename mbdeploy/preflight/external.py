"""Files that a model points to: plain files of its own folder, no links, no more than what they hold, copied apart."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from mbdeploy.bounds import Bounds
from mbdeploy.errors import ModelError
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name

_TODO = "put plain files into the model's own folder (`cp -L` copies what a link points to)"
_KEYS = {"location", "offset", "length", "checksum", "basepath"}
#: A file above this that holds less than an eighth of its size is sparse on purpose.
_SPARSE_BYTES = 64 << 20


def check_file(path: Path, bounds: Bounds, where: object | None = None) -> int:
    """The size of a plain file, links to it followed.

    Raises:
        ModelError: no plain file (a device, a pipe, a folder), too large, or sparse.
    """
    where = path if where is None else where
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise refuse(where, "a file", reason, "check the path and its permissions") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "a directory" if stat.S_ISDIR(found.st_mode) else "a device or a pipe"
        raise refuse(where, "a plain file", kind, "give the path of a file")
    if found.st_size > bounds.max_file_size:
        raise refuse_more(where, bounds, "max_file_size", "bytes in a file", show_bytes(found.st_size))
    if found.st_size > _SPARSE_BYTES and getattr(found, "st_blocks", found.st_size) * 512 * 8 < found.st_size:
        raise refuse(where, "a file that is stored whole", "a sparse one, which is mostly holes", "copy it again")
    return found.st_size


def check_external(tensors: Sequence[Any], sizes: Sequence[int], path: Path, bounds: Bounds) -> tuple[str, ...]:
    """The files that ``tensors`` of the model at ``path`` point to, each once; ``sizes`` are their bytes as declared.

    Rules: 1. a location is a relative path of plain names below the model's folder. 2. No part of it is a symbolic
    link, and the file has no second name (a hard link), for both can show what is not the model's. 3. Offset and
    length lie within the file, and the length is the tensor's. 4. All files together keep to ``max_file_size``.

    Raises:
        ModelError: one of these does not hold.
    """
    files: dict[str, int] = {}
    total = 0
    for tensor, size in zip(tensors, sizes, strict=True):
        if not tensor.external_data and not tensor.data_location:
            continue
        told = {entry.key: entry.value for entry in tensor.external_data}
        name = show_name(tensor.name)
        if set(told) - _KEYS or len(told) != len(tensor.external_data) or "location" not in told:
            found = f"{', '.join(map(show_name, list(told)[:4])) or 'nothing'} in {name}"
            raise refuse(path, "external data that say where they lie, once", found)
        location = told["location"]
        if location not in files:
            files[location] = _check_location(path, location, bounds)
            total += files[location]
        offset, length = (_read_number(told, key, path, name) for key in ("offset", "length"))
        start = offset or 0
        if (length is not None and length != size) or start + size > files[location]:  # 3.
            shown = f"{length if length is not None else size} bytes at {start} of {files[location]} for {name}"
            raise refuse(path, f"{size} bytes within {show_name(location)}", shown, "make or download it again")
        if total > bounds.max_file_size:  # 4.
            raise refuse_more(path, bounds, "max_file_size", "bytes of external data", show_bytes(total))
    return tuple(files)


@contextlib.contextmanager
def copying(path: Path, companions: Sequence[str]) -> Iterator[Path]:
    """A private copy of a model that has files beside it, in a folder that is removed; else the model itself.

    What was checked is then what native code reads, whatever happens to the folder meanwhile.
    """
    if not companions:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="mbdeploy-copy-") as folder:
        place = Path(folder)
        shutil.copyfile(path, place / path.name)
        for name in companions:
            copy_plain(path.parent / name, place / name)
        yield place / path.name


def copy_plain(source: Path, target: Path) -> None:
    """Copy a file that is no link in this very moment.

    Raises:
        ModelError: it has become one.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_plain(source) as file, target.open("xb") as copy:
        shutil.copyfileobj(file, copy, 1 << 20)


def open_plain(path: Path) -> BinaryIO:
    """Open a file without following a link, or waiting for a pipe.

    Raises:
        ModelError: it is no plain file, has a second name, or cannot be read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        raise refuse(path, "a plain file", (error.strerror or str(error)).lower(), _TODO) from error
    file = os.fdopen(handle, "rb")
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        file.close()
        raise refuse(path, "a plain file without a second name", "a link", _TODO)
    return file


def take_in(tensors: Sequence[Any], path: Path, *, most: int | None = None) -> None:
    """Read external data into the tensors themselves, of those of at most ``most`` bytes; they were checked before.

    Raises:
        ModelError: a file that has become a link or shorter meanwhile.
    """
    for tensor in tensors:
        told = {entry.key: entry.value for entry in tensor.external_data}
        if not told or (most is not None and int(told.get("length", most + 1)) > most):
            continue
        with open_plain(path.parent / told["location"]) as file:
            file.seek(int(told.get("offset", "0")))
            data = file.read(int(told["length"])) if "length" in told else file.read()
        if len(data) != int(told.get("length", len(data))):
            raise refuse(path, f"{told['length']} bytes", f"{len(data)} in {show_name(told['location'])}", _TODO)
        tensor.raw_data = data
        del tensor.external_data[:]
        tensor.ClearField("data_location")


def _check_location(path: Path, location: str, bounds: Bounds) -> int:
    shown = show_name(location)
    relative = PurePosixPath(location)
    plain = location and "\0" not in location and "\\" not in location and ":" not in location
    if not plain or relative.is_absolute() or ".." in relative.parts or not relative.parts:  # 1.
        raise _refuse_location(path, shown)
    place = path.parent
    try:
        for part in relative.parts:
            place = place / part
            found = place.lstat()
            if stat.S_ISLNK(found.st_mode):  # 2.
                raise _refuse_location(path, f"{shown}, a symbolic link")
        if not stat.S_ISREG(found.st_mode):
            raise _refuse_location(path, f"{shown}, which is no plain file")
        if found.st_nlink != 1:
            raise _refuse_location(path, f"{shown}, a hard link: a file with another name elsewhere")
    except OSError as error:
        raise _refuse_location(path, f"{shown} ({(error.strerror or str(error)).lower()})") from error
    return check_file(place, bounds, where=path)


def _refuse_location(path: Path, found: str) -> ModelError:
    return refuse(path, "external data in files of the model's own folder", found, _TODO)


def _read_number(told: dict[str, str], key: str, path: Path, name: str) -> int | None:
    text = told.get(key)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 19):
        raise refuse(path, f"a number of bytes as {key} in {name}", show_name(text))
    return int(text)
