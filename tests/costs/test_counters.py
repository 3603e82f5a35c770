"""Counting: every number here was computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mbdeploy.costs.axes import lighten
from mbdeploy.costs.counters import COUNTERS
from mbdeploy.costs.graph import Graph
from mbdeploy.costs.reading import read_graph
from mbdeploy.costs.report import KINDS, InspectReport

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]


def zeros(*shape: int) -> np.ndarray[Any, Any]:
    return np.zeros(shape, np.float32)


def test_a_3x3_convolution_costs_output_times_kernel_times_input_channels(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", pads=[1, 1, 1, 1], strides=[2, 2])
    layer = look(make_model([conv], [1, 3, 8, 8], {"w": zeros(16, 3, 3, 3), "b": zeros(16)})).layers[0]
    assert (layer.kind, layer.kernel, layer.strides, layer.groups) == ("standard conv", (3, 3), (2, 2), 1)
    assert layer.output == (1, 16, 4, 4)
    assert layer.macs == 16 * 4 * 4 * 3 * 9 == 6912
    assert (layer.weights, layer.parameters) == (432, 448)
    assert layer.bytes_fp32 == 4 * (192 + 256 + 448)
    assert layer.bytes_int8 == 192 + 256 + 432 + 4 * 16
    assert layer.intensity_fp32 == 6912 / 3584


def test_a_depthwise_convolution_reads_one_channel_for_each_output(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "dw", group=8, pads=[1, 1, 1, 1])
    layer = look(make_model([conv], [1, 8, 5, 5], {"w": zeros(8, 1, 3, 3)})).layers[0]
    assert (layer.kind, layer.groups, layer.macs, layer.weights) == ("depthwise conv", 8, 8 * 25 * 9, 72)


def test_a_grouped_convolution_reads_its_groups_channels_only(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "grouped", group=2)
    layer = look(make_model([conv], [1, 8, 5, 5], {"w": zeros(6, 4, 1, 1)})).layers[0]
    assert (layer.kind, layer.macs, layer.weights) == ("grouped conv", 6 * 25 * 4, 24)


def test_a_1x1_convolution_is_pointwise(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "pw")
    layer = look(make_model([conv], [1, 8, 5, 5], {"w": zeros(4, 8, 1, 1)})).layers[0]
    assert (layer.kind, layer.macs) == ("pointwise conv", 4 * 25 * 8)


def test_a_1d_convolution_counts_too(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    layer = look(make_model([conv], [1, 2, 10], {"w": zeros(4, 2, 3)})).layers[0]
    assert (layer.output, layer.macs) == ((1, 4, 8), 4 * 8 * 2 * 3)


def test_a_transposed_convolution_costs_input_times_kernel_times_output_channels(make_model: Make, look: Look) -> None:
    conv = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], "up", strides=[2, 2], group=2)
    layer = look(make_model([conv], [1, 4, 3, 3], {"w": zeros(4, 5, 2, 2), "b": zeros(10)})).layers[0]
    assert layer.output == (1, 10, 6, 6)
    assert layer.macs == 4 * 9 * 5 * 4 == 720
    assert (layer.weights, layer.parameters) == (80, 90)


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"), [((5, 8), (3, 8), {"transB": 1}), ((8, 5), (8, 3), {"transA": 1})]
)
def test_a_gemm_costs_output_times_the_length_of_the_sum(
    make_model: Make, look: Look, shape: tuple[int, int], weight: tuple[int, int], attributes: dict[str, int]
) -> None:
    gemm = helper.make_node("Gemm", ["x", "w", "b"], ["y"], "fc", **attributes)
    layer = look(make_model([gemm], shape, {"w": zeros(*weight), "b": zeros(3)})).layers[0]
    assert (layer.kind, layer.output, layer.macs, layer.parameters) == ("gemm", (5, 3), 120, 27)


def test_a_matmul_of_two_activations_has_macs_and_no_weights(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], "t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["x", "t"], ["y"], "attention"),
    ]
    report = look(make_model(nodes, [2, 3, 4]))
    assert [(layer.macs, layer.weights) for layer in report.layers] == [(0, 0), (2 * 3 * 3 * 4, 0)]
    assert report.batch == 2


def test_a_reshape_costs_nothing_and_moves_nothing(make_model: Make, look: Look) -> None:
    reshape = helper.make_node("Reshape", ["x", "shape"], ["y"], "reshape")
    report = look(make_model([reshape], [1, 4, 2, 2], {"shape": np.array([1, -1])}))
    layer = report.layers[0]
    assert (layer.output, layer.macs, layer.bytes_fp32, layer.bytes_int8) == ((1, 16), 0, 0, 0)
    assert report.memory.fp32_bytes == 64


def test_elementwise_pooling_and_batch_norm_have_no_macs(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], "add"),
        helper.make_node("BatchNormalization", ["a", "s", "b", "m", "v"], ["n"], "bn"),
        helper.make_node("GlobalAveragePool", ["n"], ["y"], "pool"),
    ]
    report = look(make_model(nodes, [1, 4, 2, 2], {name: zeros(4) for name in "sbmv"}))
    assert [layer.kind for layer in report.layers] == ["elementwise", "elementwise", "pooling"]
    assert report.total.macs == 0
    assert report.total.parameters == 8  # scale and shift; mean and variance are statistics
    assert [layer.bytes_fp32 for layer in report.layers] == [128, 128 + 32, 64 + 16]  # x is read once


def test_a_slice_reads_only_what_it_writes(make_model: Make, look: Look) -> None:
    node = helper.make_node("Slice", ["x", "from", "to", "axis"], ["y"], "slice")
    constants = {"from": np.array([0]), "to": np.array([2]), "axis": np.array([1])}
    assert look(make_model([node], [1, 8, 4, 4], constants)).layers[0].bytes_fp32 == 2 * 4 * 32


def test_slopes_and_scales_are_parameters_and_lone_numbers_are_not(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("PRelu", ["x", "slope"], ["p"], "prelu"),
        helper.make_node("Mul", ["p", "half"], ["y"], "halve"),
    ]
    report = look(make_model(nodes, [1, 4, 2, 2], {"slope": zeros(4, 1, 1), "half": np.float32(0.5)}))
    assert [layer.parameters for layer in report.layers] == [4, 0]


def test_a_dynamic_batch_is_counted_as_one(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    report = look(make_model([conv], ["batch", 8, 5, 5], {"w": zeros(4, 8, 1, 1)}))
    assert (report.batch, report.inputs, report.total.macs) == (1, {"x": (1, 8, 5, 5)}, 800)


def test_operators_without_a_rule_are_listed_and_never_guessed(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], "relu"),
        helper.make_node("Wave", ["r"], ["v"], "wave", domain="com.example"),
        helper.make_node("Relu", ["v"], ["y"], "after"),
    ]
    report = look(make_model(nodes, [1, 4, 2, 2], domains=["com.example"]))
    assert [layer.name for layer in report.layers] == ["relu"]
    listed = [(node.name, node.operator, node.reason) for node in report.uncounted]
    assert listed == [
        ("wave", "com.example::Wave", "no rule counts it"),
        ("after", "Relu", "the shape of 'v' is unknown"),
    ]
    assert report.total.layers == 1


def test_a_declared_shape_carries_on_behind_an_unknown_operator(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Wave", ["x"], ["v"], "wave", domain="com.example"),
        helper.make_node("Conv", ["v", "w"], ["y"], "conv"),
    ]
    model = make_model(nodes, ["n", 4, 2, 2], {"w": zeros(4, 4, 1, 1)}, domains=["com.example"])
    model.graph.value_info.append(helper.make_tensor_value_info("v", TensorProto.FLOAT, ["n", 4, 2, 2]))
    report = look(model)
    assert [layer.macs for layer in report.layers] == [64]
    assert [node.name for node in report.uncounted] == ["wave"]


def test_a_node_that_cannot_be_is_uncounted_with_what_onnx_says_of_it(make_model: Make, look: Look) -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["y"], "conv")
    report = look(make_model([conv], [1, 4, 2, 2], {"w": zeros(4, 3)}))
    assert report.layers == ()
    assert report.uncounted[0].name == "conv"
    assert report.uncounted[0].reason


def test_a_weight_of_two_layers_counts_once_and_their_biases_twice(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "first"),
        helper.make_node("Conv", ["c", "w", "b"], ["y"], "second"),
    ]
    total = look(make_model(nodes, [1, 4, 2, 2], {"w": zeros(4, 4, 1, 1), "b": zeros(4)})).total
    assert (total.macs, total.weights, total.parameters) == (128, 16, 24)


def test_every_rule_gives_one_of_the_kinds_and_belongs_to_an_onnx_operator(make_model: Make) -> None:
    for operator in COUNTERS:
        assert onnx.defs.has(operator) or operator == "Upsample", operator
    graph = read_small(make_model)
    assert {COUNTERS[node.operator](graph, node).kind for node in graph.nodes} <= set(KINDS)


def read_small(make_model: Make) -> Graph:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("MaxPool", ["c"], ["m"], "pool", kernel_shape=[2, 2]),
        helper.make_node("Transpose", ["m"], ["t"], "transpose"),
        helper.make_node("Relu", ["t"], ["y"], "relu"),
    ]
    return read_graph(lighten(make_model(nodes, [1, 4, 2, 2], {"w": zeros(4, 4, 1, 1)})))
