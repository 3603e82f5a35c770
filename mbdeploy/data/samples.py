"""What a data set is: named samples, where each one lies, and a digest of what they contain."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from mbdeploy.artifact import digest_file
from mbdeploy.errors import DataError, UsageError

Box = tuple[int, int, int, int]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One input: a whole image, a crop of one, one row of an array file, or one image of a tar or Parquet file.

    ``box`` is (left, top, right, bottom) in pixels of the upright image, right and bottom excluded.
    ``row`` counts from 0 along the first axis of an ``.npz`` or ``.npy`` array. ``part`` is where an encoded image lies
    in a tar file (offset and size in bytes), ``record`` the row of a Parquet file, from 0. ``sha256`` is what the
    file must have (None: not declared). ``name`` is unique in its data set and fixes the order.
    """

    name: str
    path: str
    label: int | None = None
    box: Box | None = None
    row: int | None = None
    sha256: str | None = None
    part: tuple[int, int] | None = None
    record: int | None = None


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """Samples in the order of their names; ``source`` is the user's word for where they come from."""

    name: str
    source: str
    samples: tuple[Sample, ...]
    licence: str = ""

    def __len__(self) -> int:
        return len(self.samples)

    def digest(self) -> str:
        """SHA-256 over what the samples contain, in order: file bytes, crop boxes, rows and labels.

        Names and folders do not count, so a moved data set keeps its digest. Each file is read once in
        the life of the process, as long as its size and modification time stay the same.

        Raises:
            DataError: a file that cannot be read, or that has another sha256 than its manifest says.
        """
        total = hashlib.sha256()
        for sample in self.samples:
            place = [] if sample.part is None and sample.record is None else [sample.part, sample.record]
            total.update(msgspec.json.encode([check_file(sample), sample.box, sample.row, sample.label, *place]))
        return total.hexdigest()


def check_file(sample: Sample) -> str:
    """The SHA-256 of a sample's file, compared with the declared one where there is one."""
    found = hash_file(sample.path)
    if sample.sha256 is not None and found != sample.sha256:
        raise DataError(
            where=sample.path,
            expected=f"the file with sha256 {sample.sha256}, as the manifest declares",
            found=f"sha256 {found}",
            todo="restore the file, or correct the manifest",
        )
    return found


def hash_file(path: str | Path) -> str:
    """The SHA-256 of a file, read once a process."""
    try:
        return digest_file(Path(path))
    except OSError as error:
        raise unreadable(path, error) from error


def is_file(path: Path) -> bool:
    """Whether a regular file lies there; a name that is too long, or a closed folder, holds none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def unreadable(path: str | Path, error: OSError) -> DataError:
    """The error for a data file that the operating system does not give us."""
    return DataError(
        where=path,
        expected="a readable file",
        found=error.strerror or str(error),
        todo="check the path and its permissions",
    )


def take_samples(samples: tuple[Sample, ...], limit: int | None, seed: int) -> tuple[Sample, ...]:
    """At most ``limit`` samples, chosen by ``seed`` and returned in the order of their names.

    Rules: 1. every sample gets the rank SHA-256(seed, name), and the lowest ranks are taken: the choice
    depends on the names alone, not on the order of the files, the platform or the version of a random
    generator, and a larger limit keeps what a smaller one took. 2. A limit at or above the number of
    samples takes them all.
    """
    if limit is not None and limit < 1:
        raise UsageError(
            expected="a limit of at least 1 sample",
            found=str(limit),
            todo="ask for 1 or more, or leave it out",
        )
    chosen = sorted(samples, key=lambda sample: _rank(sample.name, seed))[:limit]
    return tuple(sorted(chosen, key=lambda sample: sample.name))


def _rank(name: str, seed: int) -> bytes:
    # A file name on Linux may hold bytes that are not UTF-8; Python carries them as lone surrogates.
    return hashlib.sha256(f"{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
