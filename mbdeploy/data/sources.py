"""From the user's word for some data to a data set: which reader it is for, and what must hold after."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import assets
from mbdeploy.card import ModelCard
from mbdeploy.data.arrays import list_rows
from mbdeploy.data.layouts import list_csv, list_folder
from mbdeploy.data.manifests import list_manifest, read_manifest
from mbdeploy.data.samples import Dataset, Sample, take_samples, unreadable
from mbdeploy.data.shards import list_tables, list_tars
from mbdeploy.errors import DataError

_MOST_CLASSES = 1 << 31
_KINDS = "a folder of images, a .csv, .npz, .npy, .tar, .parquet or .toml file, or the name of a manifest"
#: Files that hold many encoded images each; a folder may hold several of one kind.
_PACKED = {".tar": list_tars, ".parquet": list_tables}


def open_dataset(
    source: str | Path,
    *,
    split: str | None = None,
    labelled: bool = False,
    classes: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    card_dir: Path | None = None,
) -> Dataset:
    """List the samples of a source; images and rows are not decoded yet.

    Rules: 1. a bare word that names a manifest (``calibration/WORD.toml``) is that manifest; a folder
    of the same name is written ``./WORD``. 2. Another source is a path, looked up below ``card_dir``
    first if that is given (the folder of the card that names the source). 3. ``split`` chooses among
    the splits of a manifest; sources without splits give the same samples for every split. 4. Without
    ``labelled`` there are no labels, even where the source has some. 5. Labels lie in
    0..``classes`` - 1, where ``classes`` is known; a background class of the model is not counted.
    6. ``limit`` and ``seed`` choose as :func:`take_samples` says. 7. The order is that of the names. 8. A folder that
    holds tar or Parquet files is all of their images.

    Raises:
        DataError: no such source, nothing in it, or something in it that cannot be used.
        UsageError: a split that the manifest does not have; a limit below 1.
        UnavailableError: a package that carries the files is not installed.
    """
    path = _find(source, card_dir)
    name, licence = path.stem, ""
    if path.is_dir():
        name = path.resolve().name
        packed = _find_packed(path)
        samples = (
            _PACKED[packed[0].suffix.lower()](packed, labelled=labelled)
            if packed
            else list_folder(path, labelled=labelled, classes=classes)
        )
    elif not path.is_file():
        raise DataError(where=path, expected=_KINDS, found="a device or a pipe", todo="give one of these")
    elif path.suffix.lower() == ".csv":
        samples = list_csv(path, labelled=labelled)
    elif path.suffix.lower() in _PACKED:
        samples = _PACKED[path.suffix.lower()]([path], labelled=labelled)
    elif path.suffix.lower() in (".npz", ".npy"):
        samples = list_rows(path, labelled=labelled)
    elif path.suffix.lower() == ".toml":
        manifest = read_manifest(path)
        name, licence = manifest.name, manifest.licence
        samples = list_manifest(manifest, path, split, labelled=labelled)
    else:
        raise DataError(where=path, expected=_KINDS, found="another kind of file", todo="give one of these")
    if labelled:
        _check_labels(path, samples, classes)
    chosen = take_samples(samples, limit, seed)
    return Dataset(name=name, source=str(source), samples=chosen, licence=licence)


def find_data(source: str | Path, card_dir: Path) -> str:
    """The word for what a card in ``card_dir`` names, as it is found from anywhere: a manifest's name, or a path that
    is not one.

    Raises:
        DataError: nothing of that name.
    """
    if is_manifest(source):
        return str(source)
    return name_path(str(_find(source, card_dir)))


def settle_quantization(card: ModelCard, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of ``quantize`` that a card may say: as ``given`` (None and empty are not), else as the card does.

    Images that the card names are found from any folder, and not looked for where others are given.

    Raises:
        DataError: the card names images that are not there.
    """
    said = msgspec.structs.asdict(card.quantization)
    settled = {name: given.get(name) or value for name, value in said.items()}
    if not given.get("calibration"):
        settled["calibration"] = find_data(said["calibration"], Path(card.path).parent)
    return settled


def is_manifest(source: str | Path) -> bool:
    """Whether a word is the name of a manifest; then no file of that name is meant."""
    return str(source) in {path.stem for path in assets.list_assets("calibration", ".toml")}


def name_path(path: str) -> str:
    """The word for what lies at a relative path: one that names no manifest."""
    return f"./{path}" if is_manifest(path) else path


def _find(source: str | Path, card_dir: Path | None) -> Path:
    text = str(source)
    manifests = {path.stem: path for path in assets.list_assets("calibration", ".toml")}
    if text in manifests:
        return manifests[text]
    below_card = [card_dir / text] if card_dir is not None else []
    for path in (*below_card, Path(text)):
        with contextlib.suppress(OSError, ValueError):  # a name that is too long, a folder that is closed
            if text and path.exists():
                return path
    raise DataError(
        where=text,
        expected=f"{_KINDS} ({', '.join(manifests)})",
        found="nothing of that name",
        todo="check the path or the name",
    )


def _find_packed(folder: Path) -> list[Path]:
    """The tar or Parquet files of a folder, by name.

    Raises:
        DataError: both kinds in one folder.
    """
    try:
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _PACKED and path.name[0] != ".")
    except OSError as error:
        raise unreadable(folder, error) from error
    if len({path.suffix.lower() for path in found}) > 1:
        raise DataError(
            where=folder, expected="files of one kind", found=".tar and .parquet", todo="name one folder for each"
        )
    return found


def _check_labels(path: Path, samples: tuple[Sample, ...], classes: int | None) -> None:
    for sample in samples:
        label = sample.label
        if label is None or not 0 <= label < (classes or _MOST_CLASSES):
            bounds = f"0..{(classes or _MOST_CLASSES) - 1}"
            raise DataError(
                where=f"{path}: {sample.name}",
                expected=f"a label in {bounds}",
                found="no label" if label is None else str(label),
                todo="correct the label, or give the data that belong to this model",
            )
