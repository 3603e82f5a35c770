"""From a data set to batches: float32 NCHW arrays, one batch in memory at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.card import Preprocess
from mbdeploy.data.arrays import RangeCheck, iter_rows
from mbdeploy.data.images import decode_image, prepare_pixels
from mbdeploy.data.samples import Dataset, Sample, check_file, take_samples
from mbdeploy.data.shards import iter_records, open_member
from mbdeploy.errors import UsageError

OnProgress = Callable[[int, int], None]


class Batch(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """``inputs`` (n, c, h, w) float32, C-contiguous; ``labels`` (n,) int64 or None; ``names`` n words."""

    inputs: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    names: tuple[str, ...]


def load_batches(
    dataset: Dataset,
    preprocess: Preprocess | None,
    *,
    batch_size: int = 1,
    input_shape: tuple[int, int, int] | None = None,
    on_progress: OnProgress | None = None,
    check: RangeCheck | None = None,
) -> Iterator[Batch]:
    """Decode and preprocess a data set in its order, batch by batch; the last batch may be smaller.

    Rules: 1. images need ``preprocess``; the rows of an array file are taken as already preprocessed,
    and ``preprocess`` then only says which values they may have. 2. ``input_shape`` is the (c, h, w)
    that the model takes. 3. ``on_progress(done, total)`` is called after each batch. 4. Memory does not
    grow with the number of samples. 5. A ``check`` that is given is for a part of a set: the caller finishes it.

    Raises:
        UsageError: images without preprocessing, or inputs that do not fit ``input_shape``.
        DataError: a file that cannot be used, NaN or infinity, values outside the declared range, and,
            once the last batch is out, a set that is the same value everywhere.
    """
    if batch_size < 1:
        raise UsageError(expected="a batch of at least 1", found=str(batch_size), todo="ask for 1 or more")
    tensors = _iter_tensors(dataset, preprocess, check)
    if preprocess is not None and dataset.samples[0].row is None:
        # Known before any image is opened.
        _check_shape(dataset, preprocess.shape, input_shape)
    return _iter_batches(dataset, tensors, batch_size, input_shape, on_progress)


def load_arrays(
    dataset: Dataset, preprocess: Preprocess | None, *, limit: int | None = None, seed: int = 0
) -> NDArray[np.float32]:
    """All inputs of a data set, or ``limit`` chosen by ``seed``, as one array (n, c, h, w) float32."""
    chosen = msgspec.structs.replace(dataset, samples=take_samples(dataset.samples, limit, seed))
    return np.concatenate([batch.inputs for batch in load_batches(chosen, preprocess)])


def _iter_batches(
    dataset: Dataset,
    tensors: Iterator[NDArray[np.float32]],
    batch_size: int,
    input_shape: tuple[int, int, int] | None,
    on_progress: OnProgress | None,
) -> Iterator[Batch]:
    done, total = 0, len(dataset)
    while group := list(itertools.islice(tensors, batch_size)):
        samples = dataset.samples[done : done + len(group)]
        _check_shape(dataset, group[0].shape, input_shape)
        labels = [sample.label for sample in samples if sample.label is not None]
        yield Batch(
            inputs=np.stack(group),
            labels=np.asarray(labels, np.int64) if labels else None,
            names=tuple(sample.name for sample in samples),
        )
        done += len(group)
        if on_progress is not None:
            on_progress(done, total)


def _iter_tensors(
    dataset: Dataset, preprocess: Preprocess | None, check: RangeCheck | None
) -> Iterator[NDArray[np.float32]]:
    rows = [sample.row for sample in dataset.samples if sample.row is not None]
    if rows:
        tensors = iter_rows(dataset.samples[0].path, rows)
    elif preprocess is not None:
        tensors = _iter_images(dataset.samples, preprocess)
    else:
        raise UsageError(
            where=dataset.source,
            expected="how an image becomes an input",
            found="no preprocessing",
            todo="name it with --preprocess, or give an .npz file that is already preprocessed",
        )
    return _iter_checked(dataset, tensors, check or RangeCheck(preprocess, is_array=bool(rows)), whole=check is None)


def _iter_checked(
    dataset: Dataset, tensors: Iterator[NDArray[np.float32]], check: RangeCheck, *, whole: bool
) -> Iterator[NDArray[np.float32]]:
    for sample, tensor in zip(dataset.samples, tensors, strict=True):
        check.add(tensor, sample.path if sample.row is None else f"{sample.path}: {sample.name}")
        yield tensor
    if whole:
        check.finish(dataset.source)


def _iter_images(samples: tuple[Sample, ...], preprocess: Preprocess) -> Iterator[NDArray[np.float32]]:
    records = iter_records(sample for sample in samples if sample.record is not None)
    opened, image = None, None
    for sample in samples:
        # The crops of one image follow each other: it is decoded once.
        place = (sample.path, sample.part, sample.record)
        if image is None or place != opened:
            if sample.sha256 is not None:
                check_file(sample)
            source: str | BinaryIO = sample.path
            if sample.part is not None:
                source = open_member(sample)
            elif sample.record is not None:
                source = next(records)
            opened, image = place, decode_image(source, channels=preprocess.channels)
        yield prepare_pixels(image, preprocess, box=sample.box, where=sample.path)


def _check_shape(dataset: Dataset, shape: tuple[int, ...], wanted: tuple[int, int, int] | None) -> None:
    if wanted is not None and shape != tuple(wanted):
        raise UsageError(
            where=dataset.source,
            expected=f"inputs of shape {tuple(wanted)} (channels, height, width), as the model takes them",
            found=f"shape {shape}",
            todo="change the size of the preprocessing, or give the data that belong to this model",
        )
