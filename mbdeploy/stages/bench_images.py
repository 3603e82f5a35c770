"""What models are timed on: golden.npz, other data, or the photographs that ship with mbdeploy."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.data import Dataset, load_arrays, open_dataset
from mbdeploy.golden import read_golden
from mbdeploy.preflight.refusing import refusing_data
from mbdeploy.preflight.zips import opening_zip
from mbdeploy.stages.reference import find_golden
from mbdeploy.stages.subject import Subject, check_inputs, choose_preprocess

#: Where images come from if neither --inputs nor a golden.npz beside the baseline says.
DEFAULT_DATA = "photos"
_MOST_IMAGES = 64


def find_images(model: Path, inputs: str | Path | None) -> str:
    """The source of images: the user's word, else golden.npz beside the model, else our photographs."""
    return str(inputs or find_golden(model, None) or DEFAULT_DATA)


def digest_images(source: str, seed: int) -> str:
    """What a freshness key says of a source."""
    return artifact.digest_file(Path(source)) if _is_golden(source) else _open(source, seed).digest()


def load_images(source: str, subjects: Sequence[Subject], preprocess: str | None, seed: int) -> NDArray[np.float32]:
    """At most 64 images (n, c, h, w), preprocessed, that every subject takes.

    Raises:
        DataError: images that do not fit. UsageError: nobody says how they become input.
    """
    if _is_golden(source):
        images = read_golden(Path(source)).input[:_MOST_IMAGES]
    else:
        dataset = _open(source, seed)
        images = load_arrays(dataset, choose_preprocess(dataset, subjects, preprocess))
    check_inputs(subjects, images.shape, source)
    return images


def _is_golden(source: str) -> bool:
    """Whether this is a golden.npz, and not an array file of inputs alone."""
    if not Path(source).is_file() or not zipfile.is_zipfile(source):
        return False
    with refusing_data("an array file of images", "give golden.npz, or images"), opening_zip(Path(source)) as archive:
        return "output_names.npy" in archive.namelist()


def _open(source: str, seed: int) -> Dataset:
    return open_dataset(source, split="check", limit=_MOST_IMAGES, seed=seed)
