"""Archives of which equal files make equal bytes, and their unpacking, in which no member leaves its folder."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from mbdeploy.errors import DataError, UsageError

#: The ends of names that say how an archive is packed.
ENDINGS = (".tar.gz", ".zip")
_FILE_MODE = 0o644
_LEVEL = 6
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # before which zip has no dates
_MAX_BYTES = 4 << 30
_TODO = "make it again with `mbdeploy bundle`, or copy it again"
Content = Path | bytes


def find_ending(path: Path) -> str:
    """Which of ``ENDINGS`` a name has.

    Raises:
        UsageError: none of them.
    """
    found = next((ending for ending in ENDINGS if path.name.endswith(ending)), None)
    if found is None:
        raise UsageError(where=path, expected=f"a name in {' or '.join(ENDINGS)}", found="another", todo="choose one")
    return found


def pack(path: Path, ending: str, files: Mapping[str, Content]) -> None:
    """Write ``files`` (name in the archive -> a file or bytes), sorted, without times, owners or modes of their own."""
    if ending == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL) as archive:
            for name in sorted(files):
                entry = zipfile.ZipInfo(name, _FIRST_DAY)
                entry.create_system, entry.external_attr = 3, (stat.S_IFREG | _FILE_MODE) << 16
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, _read(files[name]))
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name in sorted(files):
            content = _read(files[name])
            member = tarfile.TarInfo(name)  # owner 0, no names, time 0
            member.size, member.mode = len(content), _FILE_MODE
            archive.addfile(member, io.BytesIO(content))


def unpack(path: Path, folder: Path) -> None:
    """Unpack into an empty folder.

    Raises:
        DataError: not such an archive, a member that is no plain file or lies outside, or more than 4 GiB.
    """
    room = _MAX_BYTES
    try:
        for name, stream in _list_members(path):
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or "\\" in name or not place.parts:
                raise _refuse(path, f"a member named {name!r}")
            target = folder.joinpath(*place.parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                while chunk := stream.read(1 << 20):
                    room -= len(chunk)
                    if room < 0:
                        raise _refuse(path, f"more than {_MAX_BYTES >> 30} GiB of them")
                    file.write(chunk)
    except (OSError, EOFError, tarfile.TarError, zipfile.BadZipFile, zlib.error, ValueError) as error:
        raise _refuse(path, f"something else ({error})") from error


def _list_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if find_ending(path) == ".zip":
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                    raise _refuse(path, f"{entry.filename!r}, which is no plain file")
                with archive.open(entry) as stream:
                    yield entry.filename, stream
        return
    with tarfile.open(path, "r:gz") as tar:
        for member in tar:
            stream_or_none = tar.extractfile(member) if member.isreg() else None
            if stream_or_none is None:
                raise _refuse(path, f"{member.name!r}, which is no plain file")
            yield member.name, stream_or_none


def _read(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()


def _refuse(path: Path, found: str) -> DataError:
    return DataError(where=path, expected="a bundle of plain files", found=found, todo=_TODO)
