"""golden.npz: what is written comes back, equal content is equal bytes, and what proves nothing is refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mbdeploy.errors import DataError
from mbdeploy.golden import Golden, find_degenerate, read_golden, write_golden


def make_golden(**changes: Any) -> Golden:
    rng = np.random.default_rng(0)
    golden = Golden(
        input=rng.normal(size=(3, 2, 4, 4)).astype(np.float32),
        outputs=(rng.normal(size=(3, 5)).astype(np.float32), rng.normal(size=(3, 2, 2)).astype(np.float32)),
        output_names=("output_0", "输出 1"),
        names=("a b.png", "'c'.png#0001", "图.png"),
    )
    return msgspec.structs.replace(golden, **changes)


def test_golden_comes_back_as_it_was_written(tmp_path: Path) -> None:
    golden = make_golden()
    path = tmp_path / ".golden.npz.1.tmp"  # a name to which numpy would append .npz
    write_golden(path, golden)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    found = read_golden(path)
    assert (found.names, found.output_names, len(found)) == (golden.names, golden.output_names, 3)
    np.testing.assert_array_equal(found.input, golden.input)
    assert found.input.dtype == np.float32
    for one, other in zip(found.outputs, golden.outputs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_equal_content_is_equal_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_golden(tmp_path / name, make_golden())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_ten_outputs_and_more_keep_their_order(tmp_path: Path) -> None:
    outputs = tuple(np.full((3, 1), index, np.float32) for index in range(12))
    names = tuple(f"head {index}" for index in range(12))
    write_golden(tmp_path / "g.npz", make_golden(outputs=outputs, output_names=names))
    found = read_golden(tmp_path / "g.npz")
    assert [float(output[0, 0]) for output in found.outputs] == list(range(12))
    assert found.output_names == names


WRONG = {
    "no images": (
        {"input": np.zeros((0, 2, 4, 4), np.float32), "names": (), "outputs": ()},
        "expected at least one image",
    ),
    "three axes": ({"input": np.zeros((3, 4, 4), np.float32)}, r"images as float32 \(n, c, h, w\)"),
    "doubles": ({"input": np.zeros((3, 2, 4, 4))}, "found float64"),
    "no output": ({"outputs": (), "output_names": ()}, "expected outputs"),
    "names that do not fit": ({"output_names": ("a",)}, "found 2 outputs and 1 names"),
    "image names that do not fit": ({"names": ("a",)}, "expected 3 image names"),
    "fewer results than images": ({"outputs": (np.ones((2, 5), np.float32),) * 2}, r"\(3, …\) for output output_0"),
    "integer outputs": ({"outputs": (np.ones((3, 5), np.int64),) * 2}, "found int64"),
    "an empty output": (
        {"outputs": (np.ones((3, 0), np.float32),) * 2},
        "finite values in output output_0, found none",
    ),
    "NaN in the images": ({"input": np.full((3, 2, 4, 4), np.nan, np.float32)}, "finite values in input, found 96"),
    "infinite results": ({"outputs": (np.full((3, 5), np.inf, np.float32),) * 2}, "found 15 that are NaN or infinite"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_golden_that_proves_nothing_is_neither_written_nor_read(tmp_path: Path, kind: str) -> None:
    changes, message = WRONG[kind]
    golden = make_golden(**changes)
    path = tmp_path / "golden.npz"
    with pytest.raises(DataError, match=message):
        write_golden(path, golden)
    assert not path.exists()
    arrays = {f"output_{index}": output for index, output in enumerate(golden.outputs)}
    np.savez(path, input=golden.input, names=golden.names, output_names=golden.output_names, **arrays)
    with pytest.raises(DataError):
        read_golden(path)


@pytest.mark.parametrize("missing", ["input", "names", "output_names"])
def test_a_missing_array_is_named(tmp_path: Path, missing: str) -> None:
    arrays = {
        "input": make_golden().input,
        "output_0": make_golden().outputs[0],
        "names": np.array(make_golden().names),
        "output_names": np.array(["output_0"]),
    }
    del arrays[missing]
    np.savez(tmp_path / "g.npz", **arrays)
    with pytest.raises(DataError, match=f"found '?{missing} is not"):
        read_golden(tmp_path / "g.npz")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a golden\.npz, found no such file"):
        read_golden(tmp_path / "golden.npz")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was opened",))


def make_object_array() -> bytes:
    import io

    written = io.BytesIO()
    array = np.empty(1, object)
    array[0] = Trap()
    np.savez(written, allow_pickle=True, input=array, output_0=array, names=array, output_names=array)
    return written.getvalue()


def make_single_array() -> bytes:
    import io

    written = io.BytesIO()
    np.save(written, np.zeros(3))
    return written.getvalue()


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"PK\x03\x04 no zip", pickle.dumps(Trap()), make_object_array(), make_single_array()],
    ids=["empty", "text", "torn zip", "pickle", "objects", "one array"],
)
def test_a_file_that_is_no_golden_is_refused_and_never_unpickled(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_golden(path)
    assert caught.value.where == str(path)


def test_a_golden_file_damaged_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "golden.npz"
    write_golden(path, make_golden())
    data = path.read_bytes()
    for size in range(0, len(data), 131):
        path.write_bytes(data[:size])
        with pytest.raises(DataError):
            read_golden(path)
    whole = zipfile.ZipFile(tmp_path / "whole.npz", "w")
    whole.writestr("input.npy", b"\x93NUMPY\x01\x00\xff\xff{")
    whole.close()
    with pytest.raises(DataError):
        read_golden(tmp_path / "whole.npz")


def varied(*shape: int) -> Any:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(
    ("output", "inputs", "reason"),
    [
        (varied(4, 5), varied(4, 3), None),
        (varied(1, 5), varied(1, 3), None),
        (varied(4, 1), varied(4, 3), None),
        (np.ones((1, 1), np.float32), varied(1, 3), None),
        (varied(1, 5).repeat(4, axis=0), varied(1, 3).repeat(4, axis=0), None),
        (varied(1, 5).repeat(4, axis=0), varied(4, 3), "the same for all 4 images"),
        (np.ones((4, 1), np.float32), varied(4, 3), "the same for all 4 images"),
        (np.full((1, 5), 2, np.float32), varied(1, 3), "every value is 2"),
        (np.zeros((4, 5), np.float32), varied(4, 3), "every value is 0"),
        (np.zeros((4, 0), np.float32), varied(4, 3), "empty"),
        (np.array([[1.0, np.nan], [np.inf, 2.0]], np.float32), varied(2, 3), "2 of 4 values are NaN or infinite"),
    ],
)
def test_outputs_with_which_no_comparison_could_fail_are_found(output: Any, inputs: Any, reason: str | None) -> None:
    assert find_degenerate(output, inputs) == reason
