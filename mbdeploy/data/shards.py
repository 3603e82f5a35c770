"""Images packed into large files: tar shards as WebDataset writes them, and Parquet tables of encoded images."""

from __future__ import annotations

import bisect
import io
import itertools
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from mbdeploy.data.images import IMAGE_SUFFIXES
from mbdeploy.data.samples import Sample, unreadable
from mbdeploy.errors import DataError, UnavailableError

#: An encoded image above this is none: 64 million pixels take less.
_LARGEST_BYTES = 512 << 20
_LONGEST_LABEL = 20
#: Records of a Parquet file that are in memory at a time.
_RECORDS = 64
_IMAGE_COLUMNS = ("image", "img", "jpg", "png", "bytes")
_LABEL_COLUMNS = ("label", "labels", "cls", "fine_label")


def list_tars(paths: Sequence[Path], *, labelled: bool) -> tuple[Sample, ...]:
    """The images of tar files, in which the members of one sample share the name up to its first dot.

    Rules: 1. an image counts by its suffix (``0001.jpg``), its label is the whole number in ``0001.cls``; other
    members do not count. 2. The tar itself is not compressed: images are read where they lie in it. 3. A sample has
    one image. Only headers and labels are read here.

    Raises:
        DataError: no tar file, a compressed or a damaged one, no images, or a label that is no whole number.
    """
    return tuple(itertools.chain.from_iterable(_list_tar(path, labelled) for path in paths))


def list_tables(paths: Sequence[Path], *, labelled: bool) -> tuple[Sample, ...]:
    """The rows of Parquet files: a column of encoded images (``image``, as bytes or as {bytes, path}) and ``label``.

    Raises:
        UnavailableError: no package ``pyarrow``. DataError: no Parquet file, or no such columns.
    """
    return tuple(itertools.chain.from_iterable(_list_table(path, labelled) for path in paths))


def open_member(sample: Sample) -> BinaryIO:
    """The encoded image of a sample that is a part of a tar file.

    Raises:
        DataError: the file cannot be read, or has become shorter.
    """
    assert sample.part is not None
    offset, size = sample.part
    try:
        with Path(sample.path).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
    except OSError as error:
        raise unreadable(sample.path, error) from error
    if len(data) != size:
        raise _bad(sample.path, "a whole tar file", f"one that ends within {sample.name}")
    return _name_stream(data, sample)


def iter_records(samples: Iterable[Sample]) -> Iterator[BinaryIO]:
    """The encoded images of samples that are records of Parquet files, in ascending order; a few are read at a time."""
    for path, of_file in itertools.groupby(samples, key=lambda sample: sample.path):
        table = _open_table(Path(path))
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)]
        starts = list(itertools.accumulate(sizes, initial=0))
        for group, of_group in itertools.groupby(of_file, key=lambda one: bisect.bisect(starts, one.record or 0) - 1):
            values = _iter_values(table, group, starts[group], path)
            for sample in of_group:
                data = next((value for record, value in values if record == sample.record), None)
                if not isinstance(data, bytes):
                    raise _bad(f"{path}: {sample.name}", "the bytes of an image", "none")
                yield _name_stream(data, sample)


def _list_tar(path: Path, labelled: bool) -> Iterator[Sample]:
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    size_bytes = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                folder, slash, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}{slash}{stem}"
                if not member.isreg() or member.issparse() or name.startswith("."):
                    continue
                if f".{suffix.rpartition('.')[2].lower()}" in IMAGE_SUFFIXES:
                    if key in images:
                        raise _bad(path, "one image a sample", f"two called {key}")
                    if member.size > _LARGEST_BYTES or member.offset_data + member.size > size_bytes:
                        raise _bad(path, "a whole tar file of images", f"{member.name} of {member.size} bytes")
                    images[key] = (member.offset_data, member.size)
                elif suffix == "cls" and labelled:
                    text = archive.extractfile(member)
                    labels[key] = int(text.read(_LONGEST_LABEL) if text else b"")
    except OSError as error:
        raise unreadable(path, error) from error
    except DataError:
        raise
    except Exception as error:  # tarfile raises nearly anything on damaged headers
        raise _bad(path, "a tar file that is not compressed, with whole numbers in .cls", str(error)) from error
    if not images:
        raise _bad(path, f"images ({' '.join(sorted(IMAGE_SUFFIXES))}) in the tar file", "none")
    for key in sorted(images):
        yield Sample(name=f"{path.name}/{key}", path=str(path), part=images[key], label=labels.get(key))


def _list_table(path: Path, labelled: bool) -> Iterator[Sample]:
    table = _open_table(path)
    _find_column(path, table, _IMAGE_COLUMNS)
    count = table.metadata.num_rows
    labels: Sequence[Any] = [None] * count
    if labelled:
        column = _find_column(path, table, _LABEL_COLUMNS)
        labels = table.read(columns=[column]).column(0).to_pylist()
        if wrong := [label for label in labels if not isinstance(label, int)]:
            raise _bad(path, f"whole numbers in the column {column}", repr(wrong[0]))
    for record, label in enumerate(labels):
        yield Sample(name=f"{path.name}[{record:09d}]", path=str(path), record=record, label=label)


def _open_table(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError(
            where=path,
            expected="pyarrow, which reads Parquet",
            found="no such package",
            todo="run `pip install mbdeploy[parquet]`",
        ) from error
    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow has its own errors for damaged files
        raise _bad(path, "a Parquet file", str(error).partition("\n")[0]) from error


def _iter_values(table: Any, group: int, first: int, path: str) -> Iterator[tuple[int, Any]]:
    """The records of one group of rows, numbered from ``first``, and what each has in the column of images."""
    column = _find_column(Path(path), table, _IMAGE_COLUMNS)
    try:
        for rows in table.iter_batches(batch_size=_RECORDS, row_groups=[group], columns=[column]):
            for value in rows.column(0).to_pylist():
                yield first, value.get("bytes") if isinstance(value, dict) else value
                first += 1
    except (OSError, ValueError) as error:  # pyarrow's own errors of damaged pages are of these kinds
        raise _bad(path, "a whole Parquet file", str(error).partition("\n")[0]) from error


def _find_column(path: Path, table: Any, names: Sequence[str]) -> str:
    columns = table.schema_arrow.names
    found = next((name for name in names if name in columns), None)
    if found is None:
        raise _bad(path, f"a column {' or '.join(names)}", ", ".join(columns) or "no columns")
    return found


def _name_stream(data: bytes, sample: Sample) -> BinaryIO:
    stream = io.BytesIO(data)
    stream.name = f"{sample.path}: {sample.name}"
    return stream


def _bad(where: object, expected: str, found: str) -> DataError:
    return DataError(where=where, expected=expected, found=found, todo="write the file anew, or leave it out")
