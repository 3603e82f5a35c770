"""Tar shards and Parquet files give the images that the same files in a folder give."""

from __future__ import annotations

import importlib.util
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

from mbdeploy.card import Preprocess
from mbdeploy.data import load_batches, open_dataset
from mbdeploy.data.prefetching import prefetch
from mbdeploy.errors import DataError, UnavailableError

HOW = Preprocess(size=16, resize=None, mean=(0.0,) * 3, std=(255.0,) * 3)
HAS_PYARROW = importlib.util.find_spec("pyarrow") is not None
needs_pyarrow = pytest.mark.skipif(not HAS_PYARROW, reason="needs pyarrow: pip install 'mbdeploy[parquet]'")


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def read_inputs(source: Path) -> np.ndarray:
    dataset = open_dataset(source)
    return np.concatenate([batch.inputs for batch in load_batches(dataset, HOW, batch_size=4)])


def read_labels(source: Path) -> list[int | None]:
    return [sample.label for sample in open_dataset(source, labelled=True).samples]


@pytest.fixture
def encoded(photo_folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(photo_folder.iterdir())]


@pytest.fixture
def tars(tmp_path: Path, encoded: list[bytes]) -> Path:
    """Two tar shards of three images with labels 0..5 and members that do not count."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(2):
        members = {"._0000.png": b"\x00", "readme.txt": b"hello"}
        for n in range(3 * shard, 3 * shard + 3):
            members |= {f"{n:04}.png": encoded[n], f"{n:04}.cls": f"{n}\n".encode(), f"{n:04}.json": b"{}"}
        write_tar(folder / f"part-{shard}.tar", members)
    return folder


def test_tar_shards_give_the_images_of_the_folder(tars: Path, photo_folder: Path) -> None:
    assert np.array_equal(read_inputs(tars), read_inputs(photo_folder))
    assert read_labels(tars) == [0, 1, 2, 3, 4, 5]
    assert [sample.name for sample in open_dataset(tars / "part-1.tar").samples][:2] == [
        "part-1.tar/0003",
        "part-1.tar/0004",
    ]
    assert len({open_dataset(source).digest() for source in (tars, tars / "part-0.tar", tars / "part-1.tar")}) == 3


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b""}, "images .* in the tar file, found none"),
        ({"a.png": b"1", "a.jpg": b"2"}, "two called a"),
        ({"a.png": b"1", "a.cls": b"cat"}, "whole numbers in .cls"),
        ({"a.png": b"1"}, "no label"),
    ],
)
def test_a_tar_without_images_or_labels_is_refused(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_dataset(write_tar(tmp_path / "a.tar", members), labelled=True)


def test_a_compressed_or_cut_tar_is_refused(tmp_path: Path, encoded: list[bytes]) -> None:
    compressed = write_tar(tmp_path / "a.tar", {"a.png": encoded[0]}, "w:gz")
    with pytest.raises(DataError, match="not compressed"):
        open_dataset(compressed)
    cut = write_tar(tmp_path / "b.tar", {"a.png": encoded[0]})
    cut.write_bytes(cut.read_bytes()[:600])
    with pytest.raises(DataError, match="a whole tar file"):
        open_dataset(cut)
    whole = write_tar(tmp_path / "c.tar", {"a.png": encoded[0]})
    dataset = open_dataset(whole)
    whole.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(DataError, match="ends within"):
        list(load_batches(dataset, HOW))


def test_a_damaged_image_in_a_tar_is_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", {"broken.png": b"no picture"})
    with pytest.raises(DataError, match=r"a\.tar/broken"):
        read_inputs(path)


@needs_pyarrow
@pytest.mark.parametrize("packed", [True, False], ids=["struct", "bytes"])
def test_parquet_gives_the_images_of_the_folder(
    tmp_path: Path, photo_folder: Path, encoded: list[bytes], packed: bool
) -> None:
    import pyarrow
    from pyarrow import parquet

    images = [{"bytes": data, "path": None} for data in encoded] if packed else encoded
    table = pyarrow.table({"image": images, "label": list(range(6))})
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert np.array_equal(read_inputs(tmp_path / "a.parquet"), read_inputs(photo_folder))
    assert read_labels(tmp_path / "a.parquet") == [0, 1, 2, 3, 4, 5]
    some = open_dataset(tmp_path / "a.parquet", limit=3)
    assert [sample.record for sample in some.samples] == sorted(sample.record or 0 for sample in some.samples)
    assert sum(len(batch.names) for batch in load_batches(some, HOW)) == 3


@needs_pyarrow
def test_what_is_no_table_of_images_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="a Parquet file"):
        open_dataset(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="a column image or"):
        open_dataset(tmp_path / "b.parquet")
    parquet.write_table(pyarrow.table({"image": [b"1"], "label": ["cat"]}), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="whole numbers in the column label"):
        open_dataset(tmp_path / "c.parquet", labelled=True)


def test_without_pyarrow_the_one_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    (tmp_path / "a.parquet").touch()
    with pytest.raises(UnavailableError, match=r"pip install mbdeploy\[parquet\]"):
        open_dataset(tmp_path / "a.parquet")


def test_what_is_prefetched_comes_in_order_and_errors_in_their_place() -> None:
    def count() -> object:
        yield from range(5)
        raise DataError(expected="six", found="five", todo="stop")

    found = []
    with pytest.raises(DataError, match="five"):
        for number in prefetch(iter(count())):  # type: ignore[call-overload]
            found.append(number)  # noqa: PERF402 (what came before the error counts)
    assert found == [0, 1, 2, 3, 4]


def test_prefetching_that_is_left_early_ends_its_thread() -> None:
    import itertools
    import threading

    items = prefetch(itertools.count())
    assert next(items) == 0
    items.close()
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
