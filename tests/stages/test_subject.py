"""A model under test: what kind it is, what its outputs' steps are, and which files it needs beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.card import Preprocess
from mbdeploy.data import open_dataset
from mbdeploy.errors import DataError, UsageError
from mbdeploy.stages.subject import check_inputs, choose_preprocess, read_subject, read_subjects

Write = Callable[..., Path]


def make_external(name: str) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=f"{name}.bin")
    tensor.external_data.add(key="offset", value="0")
    return tensor


@pytest.mark.parametrize(
    ("stage", "quantized", "kind"),
    [
        ("fp32", False, "fp32"),
        ("simplified", False, "simplified"),
        ("int8", True, "int8"),
        ("", False, "fp32"),
        ("", True, "int8"),
        ("something else", True, "int8"),
    ],
)
def test_the_kind_is_what_the_file_says_or_else_what_it_does(
    stage: str, quantized: bool, kind: str, write_mean_model: Write
) -> None:
    path = write_mean_model(quantized=quantized, metadata={"mbdeploy.stage": stage} if stage else None)
    assert read_subject(path).kind == kind
    assert read_subject(path, "simplified").kind == "simplified"


def test_the_step_of_an_int8_output_is_its_dequantizers(write_mean_model: Write) -> None:
    assert read_subject(write_mean_model(quantized=True)).output_scales == (1 / 64,)
    assert read_subject(write_mean_model()).output_scales == (None,)


def test_external_data_is_found_in_weights_attributes_and_branches(tmp_path: Path) -> None:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["inner"], ["b"])],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [make_external("inner")],
    )
    nodes = [
        helper.make_node("Constant", [], ["k"], value=make_external("constant")),
        helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=branch),
        helper.make_node("Mul", ["x", "outer"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 2, 2])],
        [make_external("outer"), numpy_helper.from_array(np.array(True), "flag")],
    )
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    for name in ("outer", "constant", "inner"):
        (tmp_path / f"{name}.bin").write_bytes(bytes(4))
    assert set(read_subject(path).companions) == {"outer.bin", "constant.bin", "inner.bin"}


def test_names_that_differ_stay_and_equal_ones_get_their_folder(write_mean_model: Write) -> None:
    paths = [write_mean_model("a/m.onnx"), write_mean_model("b/m.onnx"), write_mean_model("other.onnx")]
    assert [subject.ref.name for subject in read_subjects(paths)] == ["a/m", "b/m", "other"]


def test_preprocessing_is_the_users_word_or_the_files_own(write_mean_model: Write, photo_folder: Path) -> None:
    photos = open_dataset(photo_folder)
    own = Preprocess(size=4, mean=(1.0, 2.0, 3.0))
    plain, telling = (
        read_subject(write_mean_model("plain.onnx")),
        read_subject(
            write_mean_model("telling.onnx", metadata={"mbdeploy.preprocess": msgspec.json.encode(own).decode()})
        ),
    )
    assert choose_preprocess(photos, [plain, telling], None) == own
    chosen = choose_preprocess(photos, [plain, telling], "unit")
    assert chosen is not None and (chosen.size, chosen.mean) == (4, (0.0, 0.0, 0.0))
    with pytest.raises(UsageError, match="--preprocess"):
        choose_preprocess(photos, [plain], None)


def test_rows_of_an_array_are_taken_as_they_are_unless_the_user_says_how_they_were_made(
    write_mean_model: Write, tmp_path: Path, mean_images: np.ndarray
) -> None:
    np.save(tmp_path / "ready.npy", mean_images)
    rows, subject = open_dataset(tmp_path / "ready.npy"), read_subject(write_mean_model())
    assert choose_preprocess(rows, [subject], None) is None
    assert choose_preprocess(rows, [subject], "tf") is not None


def test_inputs_are_checked_against_the_axes_that_a_model_fixes(write_mean_model: Write) -> None:
    subject = read_subject(write_mean_model())
    check_inputs([subject], (9, 3, 4, 4), "here")
    with pytest.raises(DataError, match="at least one image"):
        check_inputs([subject], (0, 3, 4, 4), "here")
    with pytest.raises(DataError, match=r"\[1, 4, 4\]"):
        check_inputs([subject], (9, 1, 4, 4), "here")
