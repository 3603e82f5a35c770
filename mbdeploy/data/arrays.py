"""Preprocessed inputs in .npz and .npy files: read row by row, and checked for what images could be."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbdeploy.bounds import current_bounds
from mbdeploy.card import Preprocess
from mbdeploy.data.samples import Sample
from mbdeploy.errors import DataError, ModelError
from mbdeploy.preflight.arrays import Arrays, Header, opening_array, opening_arrays
from mbdeploy.preflight.refusing import refuse_more, refusing_data, show_bytes

# A float pipeline with bicubic resizing overshoots black and white; a forgotten mean or std does more.
_OVERSHOOT = 0.25
_NARROWEST = 0.02
_LAYOUT = "one float32 array (n, channels, height, width), C order, under `inputs` or alone"
_TODO_LAYOUT = "save it with np.savez(path, inputs=np.ascontiguousarray(batch, np.float32))"
_TODO_LABELS = "save them with np.savez(path, inputs=..., labels=...)"
#: What a row of an array takes in memory as a sample, however small it is.
_SAMPLE_BYTES = 256


class Rows(msgspec.Struct, frozen=True, eq=False):
    """An open array file: its shape (n, c, h, w) and the stream, whose first row starts at ``offset``."""

    shape: tuple[int, int, int, int]
    stream: IO[bytes]
    offset: int


def list_rows(path: Path, *, labelled: bool) -> tuple[Sample, ...]:
    """One sample a row of an ``.npz`` or ``.npy`` file; the rows themselves are not read yet.

    Raises:
        DataError: no array of the right kind, no rows, a file shorter than its header says, rows that would take more
            than ``max_memory`` (:mod:`mbdeploy.bounds`), and, if ``labelled``, no integer array ``labels`` of the same
            length.
    """
    bounds = current_bounds()
    with open_rows(path) as rows:
        count = rows.shape[0]
    with refusing_data(_LAYOUT):
        for what, size in (("a row", 4 * math.prod(rows.shape[1:])), (f"{count} rows", _SAMPLE_BYTES * count)):
            if size > bounds.max_memory:
                raise refuse_more(path, bounds, "max_memory", f"bytes for {what}", show_bytes(size))
    labels = _read_labels(path, count) if labelled else [None] * count
    return tuple(
        Sample(name=f"{path.name}[{row:07d}]", path=str(path), row=row, label=label) for row, label in enumerate(labels)
    )


def iter_rows(path: str, rows: Iterable[int]) -> Iterator[NDArray[np.float32]]:
    """The rows asked for (ascending), each (c, h, w) float32; one row is in memory at a time."""
    with open_rows(Path(path)) as opened:
        row_bytes = 4 * math.prod(opened.shape[1:])
        for row in rows:
            opened.stream.seek(opened.offset + row * row_bytes)
            block = opened.stream.read(row_bytes)
            if len(block) != row_bytes:
                raise _bad(path, f"only {len(block)} of the {row_bytes} bytes of row {row}", "write the file anew")
            yield np.frombuffer(block, "<f4").astype(np.float32, copy=False).reshape(opened.shape[1:])


@contextlib.contextmanager
def open_rows(path: Path) -> Iterator[Rows]:
    """Open an array file and check its header; every failure to read it becomes a DataError."""
    with refusing_data(_LAYOUT, "write the file anew"):
        if path.suffix.lower() == ".npz":
            with opening_arrays(path) as arrays, arrays.open(_choose_name(path, arrays)) as (header, stream):
                yield _choose_rows(path, header, stream)
        else:
            with opening_array(path) as (header, stream):
                yield _choose_rows(path, header, stream)


class RangeCheck:
    """What a data set covered, channel by channel, so that data without a range is refused at its end.

    Rules: 1. no NaN and no infinity. 2. With preprocessing declared, array values lie where pixels of
    0..255 can lie after it, with a quarter of that range to spare. 3. Over the whole set at least one
    channel varies; in arrays with preprocessing declared, by 2 % of the range of pixels or more.
    """

    def __init__(self, preprocess: Preprocess | None, *, is_array: bool) -> None:
        self._bounds = _pixel_bounds(preprocess) if preprocess is not None and is_array else None
        self._low: NDArray[np.float32] | None = None
        self._high: NDArray[np.float32] | None = None

    def add(self, tensor: NDArray[np.float32], where: str) -> None:
        """Check one input (c, h, w) by rules 1 and 2, and remember its range."""
        low, high = tensor.min(axis=(1, 2)), tensor.max(axis=(1, 2))
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            todo = "find out what produced it, and leave it out"
            raise DataError(where=where, expected="finite numbers", found="NaN or infinity", todo=todo)
        if self._bounds is not None:
            least, most = self._bounds
            slack = _OVERSHOOT * (most - least)
            if (low < least - slack).any() or (high > most + slack).any():
                raise _bad_range(where, f"values {low.min():.4g}..{high.max():.4g}", least, most)
        self.add_ranges(low, high)

    def read_ranges(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """The lowest and the highest value of each channel so far."""
        assert self._low is not None and self._high is not None, "no input was added"
        return tuple(self._low.tolist()), tuple(self._high.tolist())

    def add_ranges(self, low: ArrayLike, high: ArrayLike) -> None:
        """Take in what ``read_ranges`` said of another part of the set, which was checked there by rules 1 and 2."""
        least, most = np.asarray(low, np.float32), np.asarray(high, np.float32)
        self._low = least if self._low is None else np.minimum(self._low, least)
        self._high = most if self._high is None else np.maximum(self._high, most)

    def finish(self, where: str) -> None:
        """Check the set as a whole by rule 3."""
        if self._low is None or self._high is None:
            return
        spread = self._high - self._low
        if not (spread > 0).any():
            values = ", ".join(f"{value:.4g}" for value in self._low)
            raise DataError(
                where=where,
                expected="inputs that vary, so that there is a range",
                found=f"the same value everywhere in each channel ({values})",
                todo="give real inputs",
            )
        if self._bounds is not None:
            least, most = self._bounds
            if not (spread >= _NARROWEST * (most - least)).any():
                found = f"values {self._low.min():.4g}..{self._high.max():.4g} over the whole set"
                raise _bad_range(where, found, least, most)


def _choose_rows(path: Path, header: Header, stream: IO[bytes]) -> Rows:
    shape = header.shape
    if header.dtype != np.dtype("<f4") or header.fortran or len(shape) != 4 or 0 in shape:
        order = ", Fortran order" if header.fortran else ""
        raise _bad(path, f"shape {shape}, dtype {header.dtype}{order}", _TODO_LAYOUT)
    return Rows(shape, stream, header.offset)


def _choose_name(path: Path, arrays: Arrays) -> str:
    names = [name for name in arrays.names if name != "labels"]
    if "inputs" in names:
        return "inputs"
    if len(names) != 1:
        raise _bad(path, f"arrays: {', '.join(names) or 'none'}", _TODO_LAYOUT)
    return names[0]


def _read_labels(path: Path, count: int) -> list[int]:
    labels = None
    if path.suffix.lower() == ".npz":
        try:
            with opening_arrays(path) as arrays:
                labels = arrays.read("labels")[0] if "labels" in arrays.names else None
        except ModelError as error:
            found = f"labels that cannot be read ({error.found})"
            raise DataError(where=path, expected="an array `labels`", found=found, todo=error.todo) from error
    if labels is None:
        raise DataError(where=path, expected="an array `labels`", found="no labels", todo=_TODO_LABELS)
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DataError(
            where=path,
            expected=f"`labels` of shape ({count},) and an integer type",
            found=f"shape {labels.shape}, dtype {labels.dtype}",
            todo=_TODO_LABELS,
        )
    return [int(label) for label in labels]


def _pixel_bounds(preprocess: Preprocess) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    mean, std = np.asarray(preprocess.mean, np.float32), np.asarray(preprocess.std, np.float32)
    return (0 - mean) / std, (255 - mean) / std


def _bad_range(where: str, found: str, least: NDArray[np.float32], most: NDArray[np.float32]) -> DataError:
    return DataError(
        where=where,
        expected=f"values that the declared mean and std give ({least.min():.4g}..{most.max():.4g})",
        found=found,
        todo="preprocess the array as declared, or declare how it was preprocessed",
    )


def _bad(path: str | Path, found: str, todo: str) -> DataError:
    return DataError(where=path, expected=_LAYOUT, found=found, todo=todo)
