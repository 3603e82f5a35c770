"""Cutting graphs: which tensors count, what a part computes, and what is left when rounding is taken out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from mbdeploy.tracing.cuts import Cut, end_at, find_float, list_cuts, quantize_only

Build = Callable[..., onnx.ModelProto]


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (3, 1, 6, 6)).astype(np.float32)


def run(model: onnx.ModelProto | None, x: np.ndarray) -> list[np.ndarray]:
    assert model is not None
    return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})


def test_cuts_of_a_float_graph_stand_behind_activations(make_conv_model: Build) -> None:
    cuts = list_cuts(make_conv_model())
    assert [(cut.tensor, cut.node, cut.operator) for cut in cuts] == [
        ("r", "conv", "Conv"),
        ("p", "pool", "GlobalAveragePool"),
        ("f", "flatten", "Flatten"),
        ("logits", "fc", "Gemm"),
    ]
    assert [cut.sources for cut in cuts] == [("image",), ("r",), ("p",), ("f",)]


def test_cuts_of_an_8_bit_graph_are_its_8_bit_tensors(build_chain: Build) -> None:
    cuts = list_cuts(build_chain(layers=3))
    assert [(cut.tensor, cut.node, cut.sources) for cut in cuts] == [
        ("q1", "conv1", ("x",)),
        ("q2", "conv2", ("q1",)),
        ("q3", "conv3", ("q2",)),
    ]
    assert all(cut.scale == pytest.approx(1 / 32) and cut.zero_point == 128 for cut in cuts)


def test_a_part_computes_what_the_whole_does(build_chain: Build, images: np.ndarray) -> None:
    model = build_chain(layers=3)
    cuts = list_cuts(model)
    ends = run(end_at(model, [cut.tensor for cut in cuts]), images)
    assert np.array_equal(cuts[2].decode(ends[2]), run(model, images)[0])
    rest = run(end_at(model, ["q3"], "q1"), cuts[0].decode(ends[0]))
    assert np.array_equal(rest[0], ends[2])
    assert len(end_at(model, ["q3"], "q2").graph.node) < len(end_at(model, ["q3"], "q1").graph.node)


def test_a_part_that_needs_more_than_its_start_does_not_exist(build_chain: Build) -> None:
    model = build_chain(layers=3, residual=True)  # the last layer adds what the first made
    assert end_at(model, ["q3"], "q2") is None
    assert end_at(model, ["q3"], "q1") is not None
    assert set(list_cuts(model)[2].sources) == {"q1", "q2"}


def test_without_any_rounding_the_graph_is_the_float_one(build_chain: Build, images: np.ndarray) -> None:
    model = build_chain(layers=2)
    cuts = list_cuts(model)
    everything = quantize_only(model, {"q0", "q1", "q2"})
    assert np.array_equal(run(everything, images)[0], run(model, images)[0])
    nothing = quantize_only(model, ())
    assert not any(node.op_type == "QuantizeLinear" for node in nothing.graph.node)
    exact, rounded = run(nothing, images)[0], run(model, images)[0]
    assert 0 < np.abs(exact - rounded).max() < 0.2
    unrounded = run(end_at(nothing, [find_float(cut) for cut in cuts]), images)
    assert np.array_equal(unrounded[1], exact)
    low, high = -128 / 32, 127 / 32
    assert all(low <= values.min() and values.max() <= high for values in unrounded)


def test_a_range_that_stands_for_a_relu_is_kept(build_chain: Build, images: np.ndarray) -> None:
    model = build_chain(layers=1, zero=0)
    out = run(quantize_only(model, ()), -4 * np.sign(images - 0.5) * images)[0]
    assert out.min() == 0 < out.max()


def test_values_of_a_float_cut_are_as_they_are() -> None:
    cut = Cut(tensor="t", node="n", operator="o", sources=())
    assert np.array_equal(cut.decode(np.array([1.5, 2.5])), np.array([1.5, 2.5], np.float32))
    eight = Cut(tensor="t", node="n", operator="o", sources=(), scale=0.5, zero_point=2)
    assert eight.decode(np.array([0, 2, 255], np.uint8)).tolist() == [-1.0, 0.0, 126.5]


def test_weights_keep_their_bytes(build_chain: Build) -> None:
    model = build_chain(layers=2)
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for tensor in end_at(model, ["q2"]).graph.initializer:
        assert np.array_equal(numpy_helper.to_array(tensor), before[tensor.name])
