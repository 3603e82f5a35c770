"""Array files are read as they were written, and never on the word of a header: what is declared is what is there."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.bounds import bounding
from mbdeploy.data import open_dataset
from mbdeploy.errors import DataError, ModelError
from mbdeploy.golden import Golden, read_golden, write_golden
from mbdeploy.preflight.arrays import map_array, opening_arrays, read_array
from mbdeploy.quant.calibration_file import load_seen

ARRAYS: dict[str, Any] = {
    "numbers": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    "columns": np.asfortranarray(np.arange(6, dtype=np.int64).reshape(2, 3)),
    "words": np.array(["a", "输出 1"]),
    "a/name.with/slashes": np.array(7),
    "nothing": np.zeros((0, 4), np.uint8),
    "truth": np.array([True, False]),
}


def declare(shape: tuple[int, ...], data: bytes = b"", descr: str = "<f4") -> bytes:
    written = io.BytesIO()
    np.lib.format.write_array_header_1_0(written, {"descr": descr, "fortran_order": False, "shape": shape})
    return written.getvalue() + data


def write_zip(path: Path, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(f"{name}.npy", data)
    return path


@pytest.mark.parametrize("write", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_they_were_written(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a.npz", **ARRAYS)
    with opening_arrays(tmp_path / "a.npz") as arrays:
        assert arrays.names == tuple(ARRAYS)
        found = dict(zip(ARRAYS, arrays.read(*ARRAYS), strict=True))
        with pytest.raises(KeyError, match="other is not a file in the archive"):
            arrays.read("other")
    for name, expected in ARRAYS.items():
        np.testing.assert_array_equal(found[name], expected)
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("read", [read_array, map_array])
def test_a_single_array_comes_back_as_it_was_written(tmp_path: Path, name: str, read: Any) -> None:
    np.save(tmp_path / "a.npy", ARRAYS[name])
    found = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, ARRAYS[name])
    assert (found.dtype, found.shape) == (ARRAYS[name].dtype, ARRAYS[name].shape)


WRONG = {
    "2^40 rows": (declare((2**40,), bytes(64)), "found 64 bytes of data where shape .* needs 4 Ti"),
    "fewer rows": (declare((3,), bytes(64)), "found 64 bytes of data"),
    "a size that overflows": (declare((2**62, 2**62), bytes(64)), r"needs about 2\^126"),
    "axes below zero": (declare((-4, -4), bytes(64)), r"shape \(-4, -4\)"),
    "text of no width": (declare((2**40,), descr="<U0"), "found dtype <U0"),
    "objects": (declare((1,), bytes(8), "|O"), "found dtype object"),
    "dates": (declare((1,), bytes(8), "<M8[s]"), "found dtype datetime64"),
    "letters that do not exist": (declare((1,), b"\xff" * 4, "<U1"), "found a letter of the number 4,294,967,295"),
    "a header of 4 GiB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "a header of at most 10,000 bytes"),
    "a header that is nested": (b"\x93NUMPY\x01\x00\x88\x13" + b"-" * 5000, "the header of an array"),
    "another version": (b"\x93NUMPY\x03\x00\x00\x00\x00\x00", "an array as NumPy writes it"),
    "text": (b"text", "an array as NumPy writes it"),
    "nothing": (b"", "an array as NumPy writes it"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_not_just_what_it_declares_is_refused_wherever_it_lies(tmp_path: Path, kind: str) -> None:
    data, message = WRONG[kind]
    (tmp_path / "a.npy").write_bytes(data)
    write_zip(tmp_path / "a.npz", input=data)
    reads = [read_array] if kind.startswith("letters") else [read_array, map_array]
    for read in reads:
        with pytest.raises(ModelError, match=message):
            read(tmp_path / "a.npy")
    with opening_arrays(tmp_path / "a.npz") as arrays, pytest.raises(ModelError, match=message):
        arrays.read("input")
    for foreign in (read_golden, load_seen, lambda path: open_dataset(path, labelled=True)):
        with pytest.raises(DataError):
            foreign(tmp_path / "a.npz")


def test_arrays_above_the_limit_are_refused_before_the_first_is_read(tmp_path: Path) -> None:
    damaged = declare((1000,), bytes(4000))
    path = write_zip(tmp_path / "a.npz", a=damaged, b=damaged)
    with opening_arrays(path) as arrays, bounding(max_memory=1):
        assert len(arrays.read("a", "b")) == 2  # limits are those of the opening
    with bounding(max_memory=7999), opening_arrays(path) as arrays:
        assert arrays.read("a")[0].shape == (1000,)
        with pytest.raises(ModelError, match=r"at most 7,999 bytes in its arrays, found 8000; raise --max-memory"):
            arrays.read("a", "b")
    refused = pytest.raises(ModelError, match=r"bytes once unpacked, found .*; raise --max-file-size")
    with bounding(max_file_size=8100), refused, opening_arrays(path):
        pass


def test_text_counts_as_what_python_makes_of_it(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", names=np.array(["a"] * 100))
    refused = pytest.raises(ModelError, match="found 6800")
    with bounding(max_memory=6000), opening_arrays(tmp_path / "a.npz") as arrays, refused:
        arrays.read("names")


def test_golden_outputs_are_written_only_as_they_can_be_read(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
    golden = Golden(input=images, outputs=(images[:, :, 0, 0],), output_names=("a",), names=("x", "y"))
    with bounding(max_memory=400), pytest.raises(DataError, match="at most 400 bytes, found 408; take fewer images"):
        write_golden(tmp_path / "golden.npz", golden)
    write_golden(tmp_path / "golden.npz", golden)
    with bounding(max_memory=400), pytest.raises(DataError, match="raise --max-memory"):
        read_golden(tmp_path / "golden.npz")


def test_rows_that_are_too_many_or_too_long_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.zeros((40, 1, 1, 1), np.float32))
    np.savez(tmp_path / "b.npz", inputs=np.zeros((1, 1, 40, 40), np.float32))
    with bounding(max_memory=6000):
        for name, what in (("a.npz", "40 rows"), ("b.npz", "a row")):
            with pytest.raises(DataError, match=rf"not at most 6,000 bytes for {what}; raise --max-memory"):
                open_dataset(tmp_path / name)
