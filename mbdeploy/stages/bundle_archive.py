"""Archives of which equal files make equal bytes, and their unpacking, in which no member leaves its folder."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO

from mbdeploy.errors import DISK_FULL, UsageError, name_cause, refuse_output
from mbdeploy.preflight.refusing import refuse, refusing_data, show_name
from mbdeploy.preflight.tars import CHUNK_BYTES, list_members
from mbdeploy.preflight.zips import DAMAGED, opening_zip

#: The ends of names that say how an archive is packed.
ENDINGS = (".tar.gz", ".zip")
_FILE_MODE = 0o644
_LEVEL = 6
_FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # before which zip has no dates
_MOST_MEMBERS = 4_096
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
        DataError: not such an archive, one with a password, a member that is no plain file or lies outside, too many of
            them, or more than ``max_file_size`` (:mod:`mbdeploy.bounds`).
        OutputError: no room there.
    """
    with refusing_data("a bundle of plain files", _TODO):
        for name, stream in _list_members(path):
            place = PurePosixPath(name)
            if place.is_absolute() or ".." in place.parts or not place.parts or "\\" in name:
                raise refuse(path, "members with plain names", f"a member named {show_name(name)}", _TODO)
            try:
                file = _create(folder.joinpath(*place.parts))
            except (OSError, ValueError) as error:
                raise _refuse_place(path, name, error) from error
            with file:
                for chunk in _iter_chunks(path, stream):
                    try:
                        file.write(chunk)
                    except OSError as error:
                        raise refuse_output(folder, error) from error


def _list_members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if find_ending(path) != ".zip":
        yield from list_members(path, most=_MOST_MEMBERS)
        return
    with opening_zip(path, most=_MOST_MEMBERS) as archive:
        for entry in archive.infolist():
            if entry.is_dir() or stat.S_ISLNK(entry.external_attr >> 16):
                raise refuse(path, "plain files", f"{show_name(entry.filename)}, which is no plain file", _TODO)
            with archive.open(entry) as stream:
                yield entry.filename, stream


def _iter_chunks(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    try:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk
    except (*DAMAGED, tarfile.TarError) as error:
        raise refuse(path, "a whole archive", name_cause(error), _TODO) from error


def _create(target: Path) -> IO[bytes]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target.open("xb")


def _refuse_place(path: Path, name: str, error: Exception) -> Exception:
    """For names that no file can have, or two that are one to the file system; a full disk is nobody's fault."""
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return refuse_output(path, error)
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return refuse(path, "members with plain names", f"a member named {show_name(name)} ({reason})", _TODO)


def _read(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
