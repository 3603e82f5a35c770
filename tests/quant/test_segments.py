"""Segments: piece by piece or whole, a quantized graph gives the same bytes."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from mbdeploy.quant import prepare, qdq
from mbdeploy.quant.ranges import choose_scale
from mbdeploy.quant.recipes import find_recipe
from mbdeploy.quant.running import open_session, run_session
from mbdeploy.quant.segments import build_segment, cut_at_layers

node = helper.make_node


def draw_weights(**shapes):
    rng = np.random.default_rng(0)
    return {name: rng.normal(0, 0.5, shape) for name, shape in shapes.items()}


GRAPHS = {
    "a chain": (
        [
            node("Conv", ["image", "w1", "b1"], ["a"], "c1", pads=[1] * 4),
            node("Relu", ["a"], ["b"], "r1"),
            node("Conv", ["b", "w2"], ["c"], "c2", group=4, pads=[1] * 4),
            node("Conv", ["c", "w3"], ["out"], "c3"),
        ],
        draw_weights(w1=(4, 3, 3, 3), b1=4, w2=(4, 1, 3, 3), w3=(6, 4, 1, 1)),
    ),
    "a residual addition": (
        [
            node("Conv", ["image", "w1"], ["a"], "c1"),
            node("Conv", ["a", "w2"], ["b"], "c2"),
            node("Relu", ["b"], ["c"], "r2"),
            node("Conv", ["c", "w3"], ["d"], "c3"),
            node("Add", ["a", "d"], ["e"], "add"),
            node("Conv", ["e", "w4"], ["out"], "c4"),
        ],
        draw_weights(w1=(4, 3, 1, 1), w2=(4, 4, 1, 1), w3=(4, 4, 1, 1), w4=(2, 4, 1, 1)),
    ),
    "two branches": (
        [
            node("Conv", ["image", "w1"], ["a"], "c1"),
            node("Conv", ["a", "w2"], ["b"], "c2"),
            node("MaxPool", ["image"], ["p"], "pool", kernel_shape=[3, 3], pads=[1] * 4),
            node("Conv", ["p", "w3"], ["d"], "c3"),
            node("Concat", ["b", "d"], ["e"], "cat", axis=1),
            node("Conv", ["e", "w4"], ["out"], "c4"),
        ],
        draw_weights(w1=(4, 3, 1, 1), w2=(3, 4, 1, 1), w3=(2, 3, 1, 1), w4=(2, 5, 1, 1)),
    ),
    "a float island between": (
        [
            node("Conv", ["image", "w1"], ["a"], "c1"),
            node("HardSwish", ["a"], ["b"], "hs"),
            node("Conv", ["b", "w2"], ["c"], "c2"),
            node("GlobalAveragePool", ["c"], ["g"], "pool"),
            node("HardSigmoid", ["g"], ["s"], "gate"),
            node("Mul", ["c", "s"], ["d"], "se"),
            node("Conv", ["d", "w3"], ["out"], "c3"),
        ],
        draw_weights(w1=(4, 3, 1, 1), w2=(4, 4, 1, 1), w3=(2, 4, 1, 1)),
    ),
    "a Gemm at the end": (
        [
            node("Conv", ["image", "w1"], ["a"], "c1", strides=[2, 2]),
            node("Relu", ["a"], ["b"], "r1"),
            node("GlobalAveragePool", ["b"], ["c"], "pool"),
            node("Flatten", ["c"], ["d"], "flat"),
            node("Gemm", ["d", "w2", "b2"], ["e"], "fc1", transB=1),
            node("Relu", ["e"], ["f"], "r2"),
            node("Gemm", ["f", "w3"], ["out"], "fc2"),
        ],
        draw_weights(w1=(8, 3, 3, 3), w2=(6, 8), b2=6, w3=(6, 5)),
    ),
}


@pytest.fixture(params=GRAPHS, ids=lambda name: name.replace(" ", "-"))
def placed(request, make_graph):
    """A graph with Q/DQ pairs, and the names of its layers in order."""
    nodes, constants = GRAPHS[request.param]
    prepared = prepare.prepare_model(make_graph(nodes, constants))
    plan, recipe = qdq.Plan(prepared), find_recipe("portable")
    own = {name: choose_scale((-4.0, 4.0), signed=False) for name in plan.tensors}
    activations = {**own, **{name: own[plan.provider_of(name)] for name in plan.shares}}
    weights = {layer.weight: np.full(_count_channels(prepared, layer), 0.02, np.float32) for layer in plan.layers}
    return qdq.place_qdq(plan, recipe, activations, weights), [layer.node for layer in plan.layers]


def _count_channels(model, layer):
    return next(tensor.dims[layer.channel_axis] for tensor in model.graph.initializer if tensor.name == layer.weight)


def test_segment_by_segment_every_8_bit_tensor_is_the_same_as_in_one_run(placed, draw_images, run_graph):
    model, layers = placed
    known = {"image": draw_images(1)}
    for segment in cut_at_layers(model, layers):
        inputs = {name: known[name] for name in segment.inputs}
        if segment.outputs:
            session = open_session(build_segment(model, segment, inputs), 1)
            known.update(zip(segment.outputs, run_session(session, segment.outputs, inputs), strict=True))
    names = [name for name, value in known.items() if value.dtype == np.uint8]
    assert len(names) >= len(layers)
    for name, whole in zip(names, run_graph(model, known["image"], names), strict=True):
        np.testing.assert_array_equal(known[name], whole)


def test_a_layer_s_input_is_known_before_its_own_segment_and_its_output_is_not(placed):
    model, layers = placed
    nodes = {node.name: node for node in model.graph.node}
    sources = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    known = {"image"}
    for segment, layer in zip(cut_at_layers(model, layers), layers, strict=False):
        assert set(segment.inputs) <= known
        known |= set(segment.outputs)
        assert sources[nodes[layer].input[0]] in known
        assert not set(nodes[layer].output) & known


def test_every_node_runs_once_and_only_dequantizing_ones_may_run_more_often(placed):
    model, layers = placed
    segments = cut_at_layers(model, layers)
    assert len(segments) == len(layers) + 1
    taken = [index for segment in segments for index in segment.nodes]
    for index, node in enumerate(model.graph.node):
        assert taken.count(index) == 1 or (node.op_type == "DequantizeLinear" and taken.count(index) >= 0)
    for number, layer in enumerate(layers):
        names = [model.graph.node[index].name for index in segments[number + 1].nodes]
        assert [name for name in names if name in layers] == [layer]


def test_what_lies_between_segments_is_8_bit_where_a_dequantize_linear_follows(placed):
    model, layers = placed
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    for segment in cut_at_layers(model, layers):
        assert not dequantized & {*segment.inputs, *segment.outputs}
