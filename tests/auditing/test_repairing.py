"""A repaired file is safe, says nearly the same, and is untouched wherever it was safe already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from graphs import CLEAN, CLIPPING, Graph, as_conv, make_dynamic, make_gemm, make_qdq, make_qlinear, run
from onnx import numpy_helper

from mbdeploy.auditing.clipping import find_unsafe
from mbdeploy.auditing.products import read_products
from mbdeploy.auditing.repairing import repair_model
from mbdeploy.errors import ModelError

BIAS = np.array([1000, -2000, 3000, 0], np.int32)
IMAGES = np.random.default_rng(0).uniform(0, 5, (8, 4, 4, 4)).astype(np.float32)
WHERE = Path("int8.onnx")


def tensors_of(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def is_safe(model: onnx.ModelProto) -> bool:
    return not any(
        mask.any() for product in read_products(model, "file").products for mask in find_unsafe(product).values()
    )


@pytest.mark.parametrize(
    "model",
    [
        make_qdq(bias=BIAS),
        make_qdq(bias=BIAS, opset=13),
        make_qdq(bias=BIAS, opset=23),
        make_qdq(bias=BIAS, scale=0.01),
        make_qdq(bias=BIAS, activation="s8", step=0.04),
        make_qlinear(bias=BIAS),
        make_qlinear(bias=BIAS, scale=0.01),
        make_qlinear(),
    ],
    ids=["qdq", "opset 13", "newest", "per tensor", "s8s8", "qlinear", "qlinear per tensor", "no bias"],
)
def test_a_repaired_convolution_is_safe_and_says_nearly_the_same(model: onnx.ModelProto) -> None:
    made, record = repair_model(model, WHERE, None)
    assert (record.clipping_before, record.clipping_after, record.left) == (1, 0, {})
    assert is_safe(made)
    onnx.checker.check_model(made, full_check=False)
    before, after = run(model, IMAGES), run(made, IMAGES)
    assert np.abs(before - after).max() <= 2 * 0.05  # steps of the output
    assert np.abs(before - after).mean() < 0.03
    [layer] = record.layers
    assert (layer.node, layer.channels, layer.weights_db[0]) == ("layer", 2, float("inf"))
    assert layer.growth_max > 1
    assert layer.weights_db[1] > 35


@pytest.mark.parametrize("qoperator", [False, True])
def test_a_matrix_product_on_one_scale_keeps_it(qoperator: bool) -> None:
    model = make_gemm(qoperator=qoperator)
    made, record = repair_model(model, WHERE, None)
    assert is_safe(made)
    assert [layer.growth_max for layer in record.layers] == [1.0]
    before, after = tensors_of(model), tensors_of(made)
    assert before.keys() == after.keys()
    assert [name for name in before if not np.array_equal(before[name], after[name])] == ["w"]
    assert np.array_equal(after["w"][2:], before["w"][2:])


def test_a_matrix_product_with_scales_per_channel_gets_new_ones_for_what_clipped() -> None:
    model = make_gemm(scale=np.full(4, 0.01))
    made, _ = repair_model(model, WHERE, None)
    assert is_safe(made)
    before, after = tensors_of(model), tensors_of(made)
    assert (after["w.scale"][:2] > before["w.scale"][:2]).all()
    assert np.array_equal(after["w.scale"][2:], before["w.scale"][2:])


@pytest.mark.parametrize("make", [make_qdq, make_qlinear])
def test_a_bias_keeps_its_value_under_the_new_scale(make: Any) -> None:
    model = make(bias=BIAS)
    made, _ = repair_model(model, WHERE, None)
    before, after = tensors_of(model), tensors_of(made)
    value, again = BIAS * before["w.scale"], after["b"] * after["w.scale"].astype(np.float64)
    assert np.abs(value - again).max() <= 0.5 * after["w.scale"].max()
    assert (after["b"][2:] == BIAS[2:]).all()
    if "b.scale" in after:
        assert np.allclose(after["b.scale"], np.float32(0.02) * after["w.scale"], rtol=1e-6)


@pytest.mark.parametrize("make", [make_qdq, make_qlinear])
def test_a_safe_file_is_the_same_afterwards(make: Any) -> None:
    model = make(as_conv(CLEAN), bias=BIAS)
    made, record = repair_model(model, WHERE, None)
    assert record.layers == ()
    assert made.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)


def test_one_scale_for_all_becomes_one_a_channel_where_a_channel_needs_its_own() -> None:
    model = make_qdq(bias=BIAS, scale=0.01, bias_scale=0.0002)
    made, _ = repair_model(model, WHERE, None)
    after = tensors_of(made)
    assert after["w.scale"].shape == after["w.zero"].shape == after["b.scale"].shape == (4,)
    axes = {node.name: [item.i for item in node.attribute if item.name == "axis"] for node in made.graph.node}
    assert (axes["w.dq"], axes["b.dq"]) == ([0], [0])


@pytest.mark.parametrize("scale", [0.01, np.full(4, 0.01)])
def test_a_dynamic_matrix_product_gets_its_scales_behind_it(scale: Any) -> None:
    model = make_dynamic(scale=scale)
    made, record = repair_model(model, WHERE, None)
    assert is_safe(made)
    assert record.layers[0].growth_max > 1
    assert tensors_of(made)["w.scale"].shape == (4,)
    images = IMAGES[:, :, :1, :1]
    before, after = run(model, images), run(made, images)
    assert np.abs(before - after).max() < 0.02 * np.abs(before).max()


def test_before_opset_13_one_scale_stays_one() -> None:
    model = make_qdq(scale=0.01, opset=12)
    made, record = repair_model(model, WHERE, None)
    assert is_safe(made)
    assert tensors_of(made)["w.scale"].shape == ()
    assert record.layers[0].growth_max == 1


def share_weights() -> onnx.ModelProto:
    """Two convolutions one behind the other over the same weights, scales and biases."""
    model = make_qdq(bias=BIAS)
    nodes = {node.name: node for node in model.graph.node}
    extra = [
        onnx.helper.make_node("Conv", ["y1", "w.dq", "b.dq"], ["c2"], "again"),
        onnx.helper.make_node("QuantizeLinear", ["c2", "out.step", "out.zero"], ["y2.q"], "y2.q"),
        onnx.helper.make_node("DequantizeLinear", ["y2.q", "out.step", "out.zero"], ["y"], "y2"),
    ]
    nodes["y"].output[0] = "y1"
    model.graph.node.extend(extra)
    return model


def test_shared_weights_are_made_safe_for_every_layer_that_reads_them() -> None:
    model = share_weights()
    made, record = repair_model(model, WHERE, None)
    assert [layer.node for layer in record.layers] == ["layer", "again"]
    assert is_safe(made)
    onnx.checker.check_model(made)
    assert np.abs(run(model, IMAGES) - run(made, IMAGES)).mean() < 0.1
    assert (
        len(tensors_of(made)) == len(tensors_of(model)) + 5
    )  # the second has a weight, its zero point, a bias and two scales


def test_weights_that_others_read_too_stay_theirs() -> None:
    model = make_qdq()
    model.graph.node.append(onnx.helper.make_node("Identity", ["w.dq"], ["seen"], "seen"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("seen", onnx.TensorProto.FLOAT, [4, 4, 1, 1]))
    made, _ = repair_model(model, WHERE, None)
    assert is_safe(made)
    assert np.array_equal(tensors_of(made)["w"], tensors_of(model)["w"])
    onnx.checker.check_model(made)


def test_float_weights_behind_a_quantizer_are_replaced_by_integers() -> None:
    model = make_qdq()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    weight.CopyFrom(numpy_helper.from_array(as_conv(CLIPPING).astype(np.float32) * np.float32(0.01), "w"))
    model.graph.node.insert(0, onnx.helper.make_node("QuantizeLinear", ["w", "w.scale", "w.zero"], ["w.q"], axis=0))
    next(node for node in model.graph.node if node.name == "w.dq").input[0] = "w.q"
    made, _ = repair_model(model, WHERE, None)
    assert is_safe(made)
    assert "w" not in tensors_of(made)
    assert np.abs(run(model, IMAGES) - run(made, IMAGES)).max() <= 2 * 0.05


def test_minus_128_twice_goes_without_touching_scales() -> None:
    weight = CLEAN.copy()
    weight[0] = [-128, 0, 0, -128]
    made, record = repair_model(make_qlinear(as_conv(weight), activation="s8"), WHERE, None)
    assert record.clipping_before == 1
    assert tensors_of(made)["w"][0].reshape(-1).tolist() == [-127, 0, 0, -127]
    assert is_safe(made)


def test_a_bias_near_the_end_of_int32_gets_room() -> None:
    bias = np.array([2147483000, 0, 0, 0], np.int32)
    made, record = repair_model(make_qdq(as_conv(CLEAN), bias=bias), WHERE, None)
    assert (record.clipping_before, len(record.layers), record.left) == (0, 1, {})
    after = tensors_of(made)
    assert abs(int(after["b"][0])) <= 1 << 30
    assert np.isclose(after["b"][0] * after["b.scale"][0], 2147483000 * 0.0002, rtol=1e-6)


def test_a_bias_that_was_cut_off_is_left_and_said() -> None:
    bias = np.array([2147483647, 0, 0, 0], np.int32)
    _, record = repair_model(make_qdq(as_conv(CLEAN), bias=bias), WHERE, None)
    assert record.left == {"layer": "1 biases were cut off at int32's end: what they were is lost"}


def make_float(weight: Any, *, name: str = "conv") -> onnx.ModelProto:
    graph = Graph()
    graph.hold("weight", np.asarray(weight, np.float32))
    graph.add("Conv", ["x", "weight"], "y", name)
    return graph.build(["n", 4, 4, 4])


def test_float_weights_of_the_model_it_was_made_from_are_closer() -> None:
    rng = np.random.default_rng(0)
    floats = rng.normal(0, 0.4, (8, 4, 3, 3))
    scales = np.abs(floats).max(axis=(1, 2, 3)) / 127
    integers = np.rint(floats / scales[:, None, None, None]).astype(np.int8)
    model = make_qdq(integers, scale=scales)
    own, _ = repair_model(model, WHERE, None)
    better, record = repair_model(model, WHERE, (make_float(floats, name="other name"), Path("fp32.onnx")))
    assert record.source == "the float weights of fp32.onnx"

    def measure(made: onnx.ModelProto) -> float:
        product = read_products(made, "file").products[0]
        weights = np.moveaxis(product.dequantize().reshape(8, 3, 3, 4), -1, 1)
        return float(((weights - floats) ** 2).sum())

    assert is_safe(better)
    assert measure(better) < measure(own)


def test_another_float_model_is_refused() -> None:
    other = make_float(np.random.default_rng(1).normal(0, 1, (4, 4, 1, 1)))
    with pytest.raises(ModelError, match="expected the float weights of layer"):
        repair_model(make_qdq(), WHERE, (other, Path("fp32.onnx")))
    smaller = make_float(np.ones((3, 4, 1, 1)))
    with pytest.raises(ModelError, match="found no layer of its shape"):
        repair_model(make_qdq(), WHERE, (smaller, Path("fp32.onnx")))
