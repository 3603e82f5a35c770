"""Images become batches: order, shapes, labels, progress, and sets that have no range."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mbdeploy.card import Preprocess
from mbdeploy.data import load_arrays, load_batches, open_dataset, prepare_image
from mbdeploy.errors import DataError, UsageError

PREPROCESS = Preprocess(size=8, resize=10)


def write_images(folder: Path, count: int, size: int = 12) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (size, size + 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_batches_hold_the_images_in_the_order_of_their_names_and_the_last_may_be_smaller(tmp_path: Path) -> None:
    dataset = open_dataset(write_images(tmp_path, 5))
    calls: list[tuple[int, int]] = []
    batches = list(
        load_batches(
            dataset, PREPROCESS, batch_size=2, input_shape=(3, 8, 8), on_progress=lambda *call: calls.append(call)
        )
    )
    assert calls == [(2, 5), (4, 5), (5, 5)]
    assert [batch.names for batch in batches] == [("0.png", "1.png"), ("2.png", "3.png"), ("4.png",)]
    for batch in batches:
        assert batch.inputs.dtype == np.float32
        assert batch.inputs.flags.c_contiguous
        assert batch.labels is None
        for name, tensor in zip(batch.names, batch.inputs, strict=True):
            np.testing.assert_array_equal(tensor, prepare_image(tmp_path / name, PREPROCESS))


def test_the_batch_size_changes_nothing_but_the_grouping(tmp_path: Path) -> None:
    dataset = open_dataset(write_images(tmp_path, 5))
    whole = load_arrays(dataset, PREPROCESS)
    for size in (1, 3, 5, 9):
        batches = load_batches(dataset, PREPROCESS, batch_size=size)
        np.testing.assert_array_equal(np.concatenate([batch.inputs for batch in batches]), whole)


def test_labels_come_as_int64_beside_their_images(tmp_path: Path) -> None:
    write_images(tmp_path / "b", 1)
    write_images(tmp_path / "a", 2)
    batch = next(load_batches(open_dataset(tmp_path, labelled=True), PREPROCESS, batch_size=8))
    assert batch.labels is not None
    assert (batch.labels.dtype, batch.labels.tolist()) == (np.int64, [0, 0, 1])


def test_a_limited_array_holds_the_same_choice_as_a_limited_data_set(tmp_path: Path) -> None:
    folder = write_images(tmp_path, 6)
    limited = open_dataset(folder, limit=2, seed=5)
    np.testing.assert_array_equal(
        load_arrays(open_dataset(folder), PREPROCESS, limit=2, seed=5), load_arrays(limited, PREPROCESS)
    )


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (200, 10, 90)])
def test_a_set_of_images_of_one_colour_is_refused_because_it_has_no_range(
    colour: tuple[int, int, int], tmp_path: Path
) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (12, 12), colour).save(tmp_path / name)
    with pytest.raises(DataError, match="the same value everywhere in each channel") as caught:
        list(load_batches(open_dataset(tmp_path), PREPROCESS))
    assert caught.value.where == str(tmp_path)


def test_one_black_image_among_others_is_no_error(tmp_path: Path) -> None:
    write_images(tmp_path, 2)
    Image.new("RGB", (12, 12)).save(tmp_path / "black.png")
    assert len(load_arrays(open_dataset(tmp_path), PREPROCESS)) == 3


def test_a_bad_image_stops_the_batches_and_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:200])
    batches = load_batches(open_dataset(tmp_path), PREPROCESS)
    assert next(batches).names == ("0.png",)
    with pytest.raises(DataError) as caught:
        next(batches)
    assert caught.value.where == str(tmp_path / "1.png")


def test_contradictions_are_refused_before_any_image_is_opened(tmp_path: Path) -> None:
    (tmp_path / "never-opened.png").write_bytes(b"no image")
    dataset = open_dataset(tmp_path)
    with pytest.raises(UsageError, match="no preprocessing"):
        load_batches(dataset, None)
    with pytest.raises(UsageError, match=r"expected inputs of shape \(3, 224, 224\).*found shape \(3, 8, 8\)"):
        load_batches(dataset, PREPROCESS, input_shape=(3, 224, 224))
    with pytest.raises(UsageError, match="found 0"):
        load_batches(dataset, PREPROCESS, batch_size=0)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    def peak(limit: int) -> int:
        dataset = open_dataset(folder, limit=limit)
        tracemalloc.start()
        for _ in load_batches(dataset, Preprocess(size=64), batch_size=2):
            pass
        _, top = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return top

    folder = write_images(tmp_path, 40, size=64)
    peak(4)  # what is loaded on first use does not count
    assert peak(40) < 1.2 * peak(4)
