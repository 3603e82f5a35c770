"""Separable blocks: which ones are found, and 1/N + 1/D^2."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from mbdeploy.costs.inspection import inspect_model
from mbdeploy.costs.report import InspectReport
from mbdeploy.costs.separable import ratio_formula

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]


def block(between: list[onnx.NodeProto], last: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("Conv", ["x", "dw"], ["d"], "depthwise", group=8, pads=[1, 1, 1, 1]),
        *between,
        helper.make_node("Conv", [last, "pw"], ["y"], "pointwise"),
    ]


WEIGHTS = {
    "dw": np.zeros((8, 1, 3, 3), np.float32),
    "pw": np.zeros((4, 8, 1, 1), np.float32),
    "small": np.zeros((8, 8, 1, 1), np.float32),
    **{name: np.ones(8, np.float32) for name in ("scale", "shift", "mean", "var")},
}
NORM = helper.make_node("BatchNormalization", ["d", "scale", "shift", "mean", "var"], ["n"], "bn")
RELU = helper.make_node("Relu", ["n"], ["r"], "relu")
SWISH = [helper.make_node("Sigmoid", ["d"], ["g"], "gate"), helper.make_node("Mul", ["d", "g"], ["s"], "mul")]
EXCITE = [
    helper.make_node("GlobalAveragePool", ["d"], ["p"], "pool"),
    helper.make_node("Conv", ["p", "small"], ["e"], "squeeze"),
    helper.make_node("HardSigmoid", ["e"], ["g"], "gate"),
    helper.make_node("Mul", ["g", "d"], ["s"], "excite"),
]


@pytest.mark.parametrize(
    ("between", "last"),
    [([], "d"), ([NORM, RELU], "r"), (SWISH, "s"), (EXCITE, "s")],
    ids=["nothing", "norm and relu", "swish", "squeeze-and-excite"],
)
def test_a_block_is_found_with_norms_activations_and_gates_between(
    make_model: Make, look: Look, between: list[onnx.NodeProto], last: str
) -> None:
    report = look(make_model(block(between, last), [1, 8, 6, 6], WEIGHTS), as_standard_conv=True)
    found = report.blocks[0]
    assert (found.depthwise, found.pointwise, found.channels) == ("depthwise", "pointwise", (8, 4))
    assert found.macs == 36 * (8 * 9 + 8 * 4)
    assert found.standard_macs == 36 * 8 * 4 * 9
    assert found.ratio == pytest.approx(1 / 4 + 1 / 9)
    assert report.standard is not None
    assert report.standard.macs == report.total.macs - found.macs + found.standard_macs


def test_a_depthwise_result_that_others_read_is_no_block(make_model: Make, look: Look) -> None:
    nodes = [
        *block([], "d")[:1],
        helper.make_node("Conv", ["d", "pw8"], ["p"], "pointwise"),
        helper.make_node("Add", ["d", "p"], ["y"], "add"),
    ]
    weights = {**WEIGHTS, "pw8": np.zeros((8, 8, 1, 1), np.float32)}
    assert look(make_model(nodes, [1, 8, 6, 6], weights)).blocks == ()


def test_a_depthwise_convolution_with_more_outputs_than_inputs_is_no_block(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "dw"], ["d"], "depthwise", group=4, pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["d", "pw"], ["y"], "pointwise"),
    ]
    assert look(make_model(nodes, [1, 4, 6, 6], WEIGHTS)).blocks == ()


@given(
    cin=st.integers(2, 12),
    cout=st.integers(1, 12),
    kernel=st.sampled_from([(1, 3), (3, 3), (5, 5), (2, 4)]),
    stride=st.integers(1, 3),
    size=st.integers(5, 12),
)
def test_the_ratio_of_a_block_is_one_over_n_plus_one_over_d_squared(
    cin: int, cout: int, kernel: tuple[int, int], stride: int, size: int
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "dw"], ["d"], "depthwise", group=cin, strides=[stride, stride]),
        helper.make_node("Conv", ["d", "pw"], ["y"], "pointwise"),
    ]
    image = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, cin, size, size])
    weights = [
        onnx.numpy_helper.from_array(np.zeros((cin, 1, *kernel), np.float32), "dw"),
        onnx.numpy_helper.from_array(np.zeros((cout, cin, 1, 1), np.float32), "pw"),
    ]
    graph = helper.make_graph(nodes, "block", [image], [helper.make_empty_tensor_value_info("y")], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    found = inspect_model(model, name="block", size_bytes=0).blocks[0]
    assert math.isclose(found.ratio, ratio_formula(cout, kernel))
    assert math.isclose(found.formula, found.ratio)
