"""The comparison that decides whether a simplified graph is believed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mbdeploy.errors import DataError, ModelError
from mbdeploy.isolate import ignore_progress
from mbdeploy.stages.simplify_steps import finish_attempt


@pytest.fixture
def finish(tmp_path: Path) -> Any:
    """Take ``candidate`` for what onnxsim made of ``source`` (nodes as ONNX text), without rewrites."""

    def run(
        source: str,
        candidate: str,
        *,
        shape: str = "N,3,8,8",
        returns: tuple[str, str] = ("float y", "float y"),
        golden: Path | None = None,
        **constants: float,
    ) -> Any:
        onnx.save(build(source, shape, returns[0], constants), tmp_path / "source.onnx")
        onnx.save(build(candidate, shape, returns[1], constants), tmp_path / "candidate.onnx")
        request = {
            "model": str(tmp_path / "source.onnx"),
            "start": str(tmp_path / "source.onnx"),
            "candidates": [str(tmp_path / "candidate.onnx")],
            "rewrites": [],
            "metadata": {},
            "golden": None if golden is None else str(golden),
            "output": str(tmp_path / "result.onnx"),
        }
        return finish_attempt(request, ignore_progress)

    return run


def build(nodes: str, shape: str, returns: str, constants: dict[str, float]) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = parser.parse_model(f"{header} g (float[{shape}] image) => ({returns}) {{ {nodes} }}")
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return model


def test_equal_outputs_are_right_and_their_difference_is_said(finish: Any) -> None:
    answer = finish("y = Mul (image, k)", "y = Mul (image, l)", k=1.0, l=1.00001)
    assert answer["wrong"] == ""
    assert 0 < answer["max_abs"] < 1e-4
    assert answer["operators_before"] == answer["operators_after"] == {"Mul": 1}


def test_the_tolerance_grows_with_the_outputs(finish: Any) -> None:
    nodes = "m = Mul (image, k) y = Add (m, {})"
    assert finish(nodes.format("zero"), nodes.format("d"), k=1000.0, zero=0.0, d=0.05)["wrong"] == ""
    assert "off by 0.05" in finish(nodes.format("zero"), nodes.format("d"), k=1.0, zero=0.0, d=0.05)["wrong"]


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        ("y = Neg (image)", "'y' is off by"),
        ("s = Sqrt (image) q = Mul (s, s) y = Mul (q, k)", "'y' is off by nan"),
        ("y = Flatten (image)", "shape"),
        ("s = Shape (image) z = ConstantOfShape (s) f = Slice (image, i, j, i) y = Add (f, z)", "at batch 3"),
    ],
)
def test_another_result_at_either_batch_is_wrong(finish: Any, candidate: str, reason: str) -> None:
    if "Slice" in candidate:  # the first image in place of every image
        candidate = "i = Constant <value_ints=[0]> () j = Constant <value_ints=[1]> () " + candidate
    assert reason in finish("y = Identity (image)", candidate, k=1.0)["wrong"]


def test_whole_numbers_must_be_equal(finish: Any) -> None:
    nodes, whole = "a = ArgMax <axis=1> (image) o = Constant <value_int={}> () y = Add (a, o)", ("int64 y", "int64 y")
    assert finish(nodes.format(10**6), nodes.format(10**6), returns=whole)["wrong"] == ""
    assert "off by 1 " in finish(nodes.format(10**6), nodes.format(10**6 + 1), returns=whole)["wrong"]


def test_an_output_of_another_name_is_wrong(finish: Any) -> None:
    answer = finish("y = Relu (image)", "z = Relu (image)", returns=("float y", "float z"))
    assert answer["wrong"] == "outputs ['z'] instead of ['y']"


def test_outputs_of_the_model_that_are_nan_are_refused(finish: Any) -> None:
    with pytest.raises(ModelError, match="NaN or infinity in 'y'"):
        finish("y = Sqrt (image)", "y = Sqrt (image)")


def test_an_output_that_no_image_changes_is_called_a_weak_comparison(finish: Any) -> None:
    answer = finish("m = Mul (image, k) y = Add (m, l)", "m = Mul (image, k) y = Add (m, l)", k=0.0, l=2.0)
    assert answer["wrong"] == ""
    assert answer["note"] == "weak comparison of 'y': every value is 2"


def test_a_file_that_leaves_height_and_width_open_is_compared_at_two_sizes(finish: Any) -> None:
    bound = (
        "s = Shape (image) h = Slice (s, i, j) c = Cast <to=1> (h) m = Clip (c, , k) d = Sub (c, m) y = Add (image, d)"
    )
    ints = "i = Constant <value_ints=[2]> () j = Constant <value_ints=[3]> () "
    answer = finish("y = Identity (image)", ints + bound, shape="N,3,H,W", k=160.0)
    assert "'y' is off by" in answer["wrong"]


def test_golden_images_decide_where_they_are_given(finish: Any, tmp_path: Path) -> None:
    images = np.zeros((2, 3, 8, 8), np.float32)
    images[1] = 2.0
    golden = tmp_path / "golden.npz"
    np.savez(
        golden, input=images, output_0=images, names=np.array(["a", "b"]), output_names=np.array(["y"])
    )  # two images for 1 + 3: they repeat
    assert finish("y = Abs (image)", "y = Identity (image)", golden=golden)["wrong"] == ""
    assert finish("y = Abs (image)", "y = Identity (image)")["wrong"] != ""
    with pytest.raises(DataError, match=r"\[3, 16, 16\].*\[3, 8, 8\]"):
        finish("y = Abs (image)", "y = Identity (image)", golden=golden, shape="N,3,16,16")


def test_an_operator_that_onnx_runtime_does_not_have_is_refused(finish: Any) -> None:
    with pytest.raises(ModelError, match="NoSuchOperator"):
        finish("y = NoSuchOperator (image)", "y = Relu (image)")


def test_weights_in_a_file_of_their_own_end_up_in_the_result(finish: Any, tmp_path: Path) -> None:
    finish("y = Mul (image, k)", "y = Mul (image, k)", k=2.0)
    model = onnx.load(tmp_path / "source.onnx")
    onnx.save(model, tmp_path / "source.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    request = {"model": str(tmp_path / "source.onnx"), "output": str(tmp_path / "result.onnx"), "golden": None}
    request["start"] = request["model"]
    assert finish_attempt({**request, "candidates": [], "rewrites": [], "metadata": {}}, ignore_progress)["wrong"] == ""
    (tmp_path / "weights").unlink()
    assert onnx.load(tmp_path / "result.onnx").graph.initializer[0].raw_data == np.float32(2).tobytes()
