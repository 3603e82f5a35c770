"""PyTorch and safetensors files before they are unpacked: what an archive would grow to, and what a header promises."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.preflight.external import check_file
from mbdeploy.preflight.refusing import refuse, show_bytes, show_name
from mbdeploy.preflight.zips import opening_zip

#: torch stores tensors as they are; what grows more than this was packed to deceive.
_MOST_GROWTH = 8
_LARGEST_HEADER = 100 << 20


def check_archive(path: Path, bounds: Bounds | None = None) -> None:
    """Refuse a weights file (``.pt``, ``.pth``, ``.pt2``, ``.safetensors``) that would become far more than it is.

    Rules: 1. a plain file within ``max_file_size``. 2. A zip archive keeps to the rules of ``opening_zip``; its members
    grow to eight times the file at most, and have plain relative names. 3. A safetensors header lies within the file
    and is JSON.

    Raises:
        ModelError: one of these does not hold.
    """
    bounds = bounds or current_bounds()
    size = check_file(path, bounds)
    if path.suffix == ".safetensors":
        _check_header(path, size)
    elif zipfile.is_zipfile(path):
        with opening_zip(path, bounds) as archive:
            _check_members(path, archive.infolist(), size)


def _check_members(path: Path, members: list[zipfile.ZipInfo], size: int) -> None:
    grown = sum(member.file_size for member in members)
    if grown > _MOST_GROWTH * size:
        raise refuse(path, "an archive of stored tensors", f"{size} bytes that grow to {show_bytes(grown)}")
    for member in members:
        parts = member.filename.replace("\\", "/").split("/")
        if member.filename.startswith("/") or ".." in parts or "\0" in member.filename:
            raise refuse(path, "members with plain names", show_name(member.filename))


def _check_header(path: Path, size: int) -> None:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
            raise refuse(path, "a safetensors header within the file", f"{length} bytes of it", "download it again")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise refuse(path, "a safetensors header of JSON", "something else", "download it again") from error
    if not isinstance(header, dict):
        raise refuse(path, "a safetensors header that names tensors", type(header).__name__, "download it again")
