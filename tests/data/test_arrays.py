"""Preprocessed arrays: read row by row, and refused when they cannot be what they are declared to be."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.card import Preprocess
from mbdeploy.data import load_arrays, load_batches, open_dataset
from mbdeploy.errors import DataError, UsageError

UNIT = Preprocess(size=4)
INPUTS = np.random.default_rng(0).random((5, 3, 4, 4), np.float32)


def save(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def test_the_rows_of_an_npz_come_out_unchanged_with_their_labels(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", inputs=INPUTS, labels=np.arange(5, dtype=np.uint8))
    dataset = open_dataset(path, labelled=True, classes=5)
    batches = list(load_batches(dataset, UNIT, batch_size=2, input_shape=(3, 4, 4)))
    assert [batch.inputs.shape[0] for batch in batches] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([batch.inputs for batch in batches]), INPUTS)
    assert [batch.labels.tolist() for batch in batches if batch.labels is not None] == [[0, 1], [2, 3], [4]]
    assert batches[0].names == ("set.npz[0000000]", "set.npz[0000001]")
    assert batches[0].inputs.dtype == np.float32
    assert batches[0].inputs.flags.c_contiguous


@pytest.mark.parametrize("compressed", [False, True])
def test_a_single_array_of_any_name_is_taken_and_no_preprocessing_is_needed(tmp_path: Path, compressed: bool) -> None:
    write = np.savez_compressed if compressed else np.savez
    write(tmp_path / "set.npz", images=INPUTS)
    np.testing.assert_array_equal(load_arrays(open_dataset(tmp_path / "set.npz"), None), INPUTS)


def test_an_npy_is_the_array_alone(tmp_path: Path) -> None:
    np.save(tmp_path / "set.npy", INPUTS)
    dataset = open_dataset(tmp_path / "set.npy")
    np.testing.assert_array_equal(load_arrays(dataset, UNIT), INPUTS)
    with pytest.raises(DataError, match="no labels"):
        open_dataset(tmp_path / "set.npy", labelled=True)


def test_a_limited_choice_takes_those_rows(tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", inputs=INPUTS)
    dataset = open_dataset(path, limit=3, seed=2)
    rows = [sample.row for sample in dataset.samples]
    assert len(rows) == 3
    np.testing.assert_array_equal(load_arrays(dataset, UNIT), INPUTS[rows])


@pytest.mark.parametrize(
    ("arrays", "found"),
    [
        ({"inputs": INPUTS.astype(np.float64)}, "dtype float64"),
        ({"inputs": INPUTS.astype(np.float16)}, "dtype float16"),
        ({"inputs": np.zeros((1, 3, 4, 4), np.uint8)}, "dtype uint8"),
        ({"inputs": INPUTS.astype(">f4")}, "dtype >f4"),
        ({"inputs": INPUTS[0]}, r"shape \(3, 4, 4\)"),
        ({"inputs": INPUTS[:0]}, r"shape \(0, 3, 4, 4\)"),
        ({"inputs": np.asfortranarray(INPUTS)}, "Fortran order"),
        ({"inputs": np.array([{"a": 1}], object)}, "dtype object"),
        ({"a": INPUTS, "b": INPUTS}, "arrays: a, b"),
        ({"labels": np.arange(5)}, "arrays: none"),
        ({}, "arrays: none"),
    ],
)
def test_an_array_of_another_shape_or_type_is_refused_with_what_it_is(
    arrays: dict[str, Any], found: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "set.npz", **arrays)
    with pytest.raises(DataError, match=found) as caught:
        open_dataset(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        (np.arange(4), r"shape \(4,\)"),
        (np.arange(5.0), "dtype float64"),
        (np.arange(5) - 1, "found -1"),
        (np.arange(5) + 6, "found 10"),
        (np.array(list("abcde"), object), "cannot be read"),
    ],
)
def test_bad_labels_are_refused(labels: np.ndarray, found: str, tmp_path: Path) -> None:
    path = save(tmp_path / "set.npz", inputs=INPUTS, labels=labels)
    assert len(open_dataset(path)) == 5
    with pytest.raises(DataError, match=found):
        open_dataset(path, labelled=True, classes=10)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_refused_with_their_row(value: float, tmp_path: Path) -> None:
    inputs = INPUTS.copy()
    inputs[3, 1, 2, 0] = value
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=inputs))
    with pytest.raises(DataError, match=r"set.npz\[0000003\]: expected finite numbers"):
        load_arrays(dataset, None)


@pytest.mark.parametrize("inputs", [np.zeros((4, 3, 2, 2), np.float32), np.full((1, 1, 9, 9), 0.5, np.float32)])
def test_an_array_without_a_range_is_refused(inputs: np.ndarray, tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=inputs))
    with pytest.raises(DataError, match="the same value everywhere"):
        load_arrays(dataset, None)


def test_an_array_of_single_pixels_varies_from_row_to_row(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=INPUTS[:, :, :1, :1]))
    assert load_arrays(dataset, None).shape == (5, 3, 1, 1)


def test_pixels_of_0_to_255_are_refused_where_normalised_values_are_declared(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=INPUTS * 255))
    with pytest.raises(DataError, match=r"expected values that the declared mean and std give \(0\.\.1\)"):
        load_arrays(dataset, UNIT)
    assert load_arrays(dataset, Preprocess(size=4, std=(1.0,) * 3)).max() > 200


def test_values_of_minus_1_to_1_are_refused_where_0_to_1_is_declared(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=INPUTS * 2 - 1))
    with pytest.raises(DataError, match="found values"):
        load_arrays(dataset, UNIT)


def test_values_of_0_to_1_are_refused_where_pixels_of_0_to_255_are_declared(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=INPUTS))
    with pytest.raises(DataError, match=r"\(0\.\.255\), found values .* over the whole set"):
        load_arrays(dataset, Preprocess(size=4, std=(1.0,) * 3))


def test_the_overshoot_of_a_float_resize_is_no_error(tmp_path: Path) -> None:
    inputs = INPUTS * 1.2 - 0.1
    np.testing.assert_array_equal(load_arrays(open_dataset(save(tmp_path / "set.npz", inputs=inputs)), UNIT), inputs)


def test_inputs_of_another_shape_than_the_model_takes_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(save(tmp_path / "set.npz", inputs=INPUTS))
    with pytest.raises(UsageError, match=r"expected inputs of shape \(3, 8, 8\).*found shape \(3, 4, 4\)"):
        next(load_batches(dataset, None, input_shape=(3, 8, 8)))


def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.npz", inputs=INPUTS).read_bytes()
    plain = io.BytesIO()
    np.save(plain, INPUTS)
    cases = {
        "empty.npz": b"",
        "half.npz": whole[: len(whole) // 2],
        "text.npz": b"<html>",
        "empty.npy": b"",
        "text.npy": b"<html></html>",
        "half.npy": plain.getvalue()[:300],
        "long.npy": plain.getvalue() + b"\0",
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError) as caught:
            open_dataset(tmp_path / name)
        assert caught.value.where == str(tmp_path / name)


def test_bytes_that_were_changed_in_an_archive_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, inputs=INPUTS)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        middle = archive.infolist()[0].compress_size // 2
    content[middle] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.npz"):
        load_arrays(open_dataset(path), None)


def test_a_header_that_promises_terabytes_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    path = tmp_path / "set.npy"
    with path.open("wb") as file:
        header = {"shape": (1, 3, 10**6, 10**6), "fortran_order": False, "descr": "<f4"}
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(DataError, match="0 bytes of data"):
        open_dataset(path)
