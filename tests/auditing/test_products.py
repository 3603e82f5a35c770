"""What is read from quantized files: which products, of which types, and what cannot be judged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CLIPPING, Graph, as_conv, make_gemm, make_qdq, make_qlinear
from onnx import numpy_helper

from mbdeploy.auditing.products import Product, read_products
from mbdeploy.errors import ModelError


def read_one(model: onnx.ModelProto) -> Product:
    reading = read_products(model, "file")
    assert reading.unjudged == {}
    [product] = reading.products
    return product


@pytest.mark.parametrize(
    ("model", "kind", "per_channel"),
    [
        (make_qdq(), "u8s8", True),
        (make_qdq(opset=13), "u8s8", True),
        (make_qdq(opset=onnx.defs.onnx_opset_version()), "u8s8", True),
        (make_qdq(scale=0.01), "u8s8", False),
        (make_qdq(activation="s8"), "s8s8 in Q/DQ", True),
        (make_qdq(as_conv(CLIPPING).astype(np.uint8)), "u8u8", True),
        (make_qlinear(), "u8s8", True),
        (make_qlinear(activation="s8"), "s8s8 in QOperator", True),
        (make_qlinear(scale=0.01), "u8s8", False),
        (make_gemm(), "u8s8", False),
        (make_gemm(qoperator=True), "u8s8", False),
    ],
)
def test_types_and_granularity_are_read_in_either_format(model: onnx.ModelProto, kind: str, per_channel: bool) -> None:
    product = read_one(model)
    assert (product.kind, product.per_channel, product.layer.node) == (kind, per_channel, "layer")
    assert product.channels == 4
    assert np.array_equal(product.view[:, 0].astype(np.int8), CLIPPING)


def test_dequantized_weights_are_integers_less_zero_point_times_scale() -> None:
    product = read_one(make_qdq(scale=[0.1, 0.2, 0.3, 0.4], zero=np.full(4, 2, np.int8)))
    expected = (CLIPPING.astype(np.float64) - 2) * np.array([[0.1], [0.2], [0.3], [0.4]])
    assert np.allclose(product.dequantize()[:, 0], expected)


def test_float_weights_behind_a_quantizer_count_as_the_integers_that_it_makes() -> None:
    model = make_qdq()
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "w")
    floats = as_conv(CLIPPING).astype(np.float32) * np.float32(0.01)
    weight.CopyFrom(numpy_helper.from_array(floats, "w"))
    node = onnx.helper.make_node("QuantizeLinear", ["w", "w.scale", "w.zero"], ["w.q"], "w.q", axis=0)
    model.graph.node.insert(0, node)
    next(node for node in model.graph.node if node.name == "w.dq").input[0] = "w.q"
    assert np.array_equal(read_one(model).integers, as_conv(CLIPPING))


def test_depthwise_layers_are_known_as_such() -> None:
    assert read_one(make_qdq(np.ones((4, 1, 3, 3), np.int8), group=4)).layer.depthwise
    assert not read_one(make_qdq()).layer.depthwise


def test_a_float_file_is_refused() -> None:
    graph = Graph()
    graph.hold("w", np.ones((2, 3, 1, 1), np.float32))
    graph.add("Conv", ["x", "w"], "y")
    with pytest.raises(ModelError, match="a float one: no Q/DQ pairs and no integer operators"):
        read_products(graph.build([1, 3, 4, 4]), "file")


def test_a_weight_that_is_computed_cannot_be_judged_and_is_named() -> None:
    model = make_qlinear()
    node = next(node for node in model.graph.node if node.name == "layer")
    node.input[3] = "x.q"
    reading = read_products(model, "file")
    assert (reading.products, reading.unjudged) == ((), {"layer": "its weight is no constant"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scale": [0.1, 0.2]}, "2 numbers in its weight scale for 4 output channels"),
        ({"bias": np.zeros(3, np.int32), "bias_scale": 0.1}, "3 numbers in its bias for 4 output channels"),
    ],
)
def test_scales_that_do_not_fit_their_weights_are_named(change: dict[str, object], reason: str) -> None:
    assert read_products(make_qdq(**change), "file").unjudged == {"layer": reason}  # type: ignore[arg-type]


def test_scales_along_another_axis_are_named() -> None:
    model = make_qdq()
    next(node for node in model.graph.node if node.name == "w.dq").attribute[0].i = 1
    reading = read_products(model, "file")
    assert "run along another axis" in reading.unjudged["layer"]


def test_a_tensor_that_lies_about_its_size_is_refused() -> None:
    model = make_qdq()
    next(tensor for tensor in model.graph.initializer if tensor.name == "w").dims[0] = 1000
    with pytest.raises(ModelError, match="tensors whose data fit their shape"):
        read_products(model, "file")


def test_a_graph_that_feeds_itself_does_not_hang() -> None:
    model = make_qdq()
    node = onnx.helper.make_node("MaxPool", ["loop"], ["loop"], "loop", kernel_shape=[1, 1])
    model.graph.node.append(node)
    next(node for node in model.graph.node if node.name == "x.dq").input[0] = "loop"
    assert read_products(model, "file").unjudged == {"layer": "its activations are of unknown type"}
