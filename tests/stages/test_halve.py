"""Float16: half the size, the same answers to ten bits, and a refusal where it cannot hold the weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, numpy_helper

from mbdeploy.cli import program
from mbdeploy.errors import ModelError
from mbdeploy.stages.halve import halve
from mbdeploy.stages.subject import read_subject


@pytest.fixture
def halved(conv_model_file: Path, tmp_path: Path) -> Path:
    halve(conv_model_file, output=tmp_path / "fp16.onnx")
    return tmp_path / "fp16.onnx"


def run(path: Path, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def test_weights_are_float16_and_the_ends_stay_float32(halved: Path) -> None:
    model = onnx.load(halved)
    ends = (*model.graph.input, *model.graph.output)
    assert {value.type.tensor_type.elem_type for value in ends} == {TensorProto.FLOAT}
    floats = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1]
    assert {tensor.data_type for tensor in floats} == {TensorProto.FLOAT16}
    assert read_subject(halved).kind == "fp16"


def test_the_answers_are_those_of_float32_to_ten_bits(halved: Path, conv_model_file: Path) -> None:
    shape = [3 if axis == 1 else axis for axis in read_subject(conv_model_file).signature.shape]
    images = np.random.default_rng(0).normal(0, 1, [2, *[size or 16 for size in shape[1:]]]).astype(np.float32)
    expected = run(conv_model_file, images)
    np.testing.assert_allclose(run(halved, images), expected, atol=4e-3 * np.abs(expected).max())


@pytest.mark.slow
def test_the_same_model_gives_the_same_bytes(halved: Path, conv_model_file: Path, tmp_path: Path) -> None:
    halve(conv_model_file, output=tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == halved.read_bytes()


def edit_weight(path: Path, value: float) -> str:
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    array = numpy_helper.to_array(tensor).copy()
    array[0, 0, 0, 0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path.write_bytes(model.SerializeToString())
    return str(tensor.name)


@pytest.mark.parametrize(("value", "expected"), [(1e5, "65504"), (float("nan"), "expected finite weights, found NaN")])
def test_weights_beyond_float16_are_refused_and_nothing_is_written(
    conv_model_file: Path, tmp_path: Path, value: float, expected: str
) -> None:
    name = edit_weight(conv_model_file, value)
    with pytest.raises(ModelError, match=expected) as caught:
        halve(conv_model_file, output=tmp_path / "fp16.onnx")
    assert name in str(caught.value)
    assert not (tmp_path / "fp16.onnx").exists()


def test_weights_too_small_for_float16_are_counted(conv_model_file: Path, tmp_path: Path) -> None:
    edit_weight(conv_model_file, 1e-9)
    assert halve(conv_model_file, output=tmp_path / "fp16.onnx").lost == 1


def test_the_command_needs_no_images_and_takes_none(conv_model_file: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(program, ["quantize", str(conv_model_file), "--precision", "fp16"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "conv.fp16.onnx").is_file()
    refused = CliRunner().invoke(program, ["quantize", str(conv_model_file), "--precision", "fp16", "--fast"])
    assert refused.exit_code == 2
    assert "--recipe is for int8" in refused.output
