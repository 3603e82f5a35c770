"""Data-set manifests: which files, with which sha256, cut into which crops, for which purpose."""

from __future__ import annotations

import importlib.util
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from mbdeploy.data.samples import Box, Sample, is_file
from mbdeploy.decoding import decode_toml
from mbdeploy.errors import DataError, UnavailableError, UsageError


class ManifestFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One image: ``file`` below the manifest's root, and what is done with it.

    ``splits`` maps a split to its number of crops; 0 takes the whole image. Rules: 1. an image with
    crops states its upright ``size`` (width, height), so that crops are known before it is opened.
    2. Crops of one image belong to one split, or two splits would show the same pixels. 3. An image
    without ``splits`` is taken whole, in every split.
    """

    file: str
    sha256: str
    splits: dict[str, int] = {}
    size: tuple[int, int] | None = None
    label: int | None = None
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        parts = PurePosixPath(self.file).parts
        if not parts or ".." in parts or self.file.startswith("/"):
            raise ValueError(f"file must lie below the root: {self.file!r}")
        if len(self.sha256) != 64 or not set(self.sha256) <= set("0123456789abcdef"):
            raise ValueError(f"sha256 of {self.file} must have 64 digits of 0-9a-f")
        if any(count < 0 for count in self.splits.values()):
            raise ValueError(f"the number of crops of {self.file} must not be below 0")
        cropped = [name for name, count in self.splits.items() if count > 0]
        if len(cropped) > 1:
            raise ValueError(f"crops of {self.file} must belong to one split, not to {' and '.join(cropped)}")
        if cropped and (self.size is None or min(self.size) < 1):
            raise ValueError(f"{self.file} has crops and must state its size [width, height]")


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A data set by reference. ``root`` is relative to the manifest, or to the folder of ``package``.

    ``package`` is the top-level import name of an installed package; it is found, never imported, and
    ``install`` says how to get it. ``crop_scale`` bounds the short side of a crop as a fraction of the
    short side of the image.
    """

    name: str
    summary: str
    files: tuple[ManifestFile, ...]
    package: str | None = None
    install: str = ""
    root: str = "."
    licence: str = ""
    crop_seed: int = 0
    crop_scale: tuple[float, float] = (0.5, 1.0)

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError("crop_scale needs 0 < low <= high <= 1")
        if self.crop_seed < 0:
            raise ValueError("crop_seed must not be below 0")
        if self.package is not None and not self.package.isidentifier():
            raise ValueError("package must be a top-level import name")
        names = [file.file for file in self.files]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"files must be listed once: {', '.join(twice)}")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        DataError: an unreadable file, broken TOML, an unknown, missing or contradictory key.
    """
    try:
        return decode_toml(path.read_bytes(), Manifest)
    except (OSError, msgspec.MsgspecError) as error:
        raise DataError(
            where=path,
            expected="a data-set manifest (mbdeploy/data/manifests.py lists its keys)",
            found=str(error),
            todo="correct it",
        ) from error


def list_manifest(manifest: Manifest, path: Path, split: str | None, *, labelled: bool) -> tuple[Sample, ...]:
    """The samples of one split, files in the order of the manifest, crops in the order drawn.

    Raises:
        UsageError: no such split, or none named where the manifest has several.
        UnavailableError: the package that carries the files is not installed.
        DataError: a file is missing. (Its sha256 is compared when it is read.)
    """
    splits = sorted({name for file in manifest.files for name in file.splits})
    if splits and split not in splits:
        raise UsageError(
            where=path,
            expected=f"one of its splits ({', '.join(splits)})",
            found=f"split {split!r}" if split else "no split named",
            todo="name one of them",
        )
    root = _find_root(manifest, path)
    samples: list[Sample] = []
    for file in manifest.files:
        count = file.splits.get(split or "", None if file.splits else 0)
        if count is not None:
            samples += _list_file(manifest, file, root, count)
    if not samples:
        raise DataError(where=path, expected="files", found="none in this split", todo="list some under [[files]]")
    return tuple(samples if labelled else (msgspec.structs.replace(sample, label=None) for sample in samples))


def draw_crops(size: tuple[int, int], count: int, *, seed: int, sha256: str, scale: tuple[float, float]) -> list[Box]:
    """``count`` random boxes inside an image of ``size`` (width, height), the same on every machine.

    Rules: 1. PCG64, seeded with [``seed``, the first 16 hex digits of ``sha256``]: the crops of an image
    do not depend on the other images. Its raw 64-bit numbers are used, because NumPy promises only
    those to stay the same; each gives a u in 0..1. 2. Five numbers a crop, in this order: the short
    side, as a fraction of the image's, even in ``scale``; the aspect, even in 1..4/3; landscape if
    u < 0.5, else portrait; x; y. 3. A long side that does not fit is cut to the image's.
    """
    width, height = size
    bits = np.random.PCG64([seed, int(sha256[:16], 16)])
    boxes = []
    for _ in range(count):
        u = [float(raw >> 11) * 2.0**-53 for raw in bits.random_raw(5).tolist()]
        short = max(1, round((scale[0] + u[0] * (scale[1] - scale[0])) * min(size)))
        long = round(short * (1 + u[1] / 3))
        across, down = (long, short) if u[2] < 0.5 else (short, long)
        across, down = min(across, width), min(down, height)
        left, top = int(u[3] * (width - across + 1)), int(u[4] * (height - down + 1))
        boxes.append((left, top, left + across, top + down))
    return boxes


def _list_file(manifest: Manifest, file: ManifestFile, root: Path, count: int) -> list[Sample]:
    path = root / file.file
    if not is_file(path):
        raise DataError(
            where=path,
            expected=f"a file of the data set {manifest.name}",
            found="no such file",
            todo=manifest.install or "put the file there, or correct the manifest",
        )
    whole = Sample(name=file.file, path=str(path), label=file.label, sha256=file.sha256)
    if count == 0 or file.size is None:
        return [whole]
    boxes = draw_crops(file.size, count, seed=manifest.crop_seed, sha256=file.sha256, scale=manifest.crop_scale)
    return [msgspec.structs.replace(whole, name=f"{file.file}#{index:04d}", box=box) for index, box in enumerate(boxes)]


def _find_root(manifest: Manifest, path: Path) -> Path:
    if manifest.package is None:
        return path.parent / manifest.root
    spec = importlib.util.find_spec(manifest.package)
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            where=path,
            expected=f"the installed package {manifest.package}, which carries the files",
            found="no such package",
            todo=manifest.install or f"install the package that provides {manifest.package}",
        )
    return Path(next(iter(spec.submodule_search_locations))) / manifest.root
