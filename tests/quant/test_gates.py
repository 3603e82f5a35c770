"""Hard sigmoid on bytes: the same bytes as in float, wherever it is done, and left in float wherever it cannot be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.quant.gates import Gate, find_gates, fold_gates, scale_gate, scale_gates
from mbdeploy.quant.prepare import expand_hard_swish, prepare_model
from mbdeploy.quant.qdq import Plan
from mbdeploy.quant.ranges import ActivationScale, choose_scale

SIXTH = {"alpha": 1 / 6, "beta": 0.5}
BYTES = np.arange(256, dtype=np.uint8).reshape(1, 256)
WEIGHTS = {"w": np.random.default_rng(0).normal(0, 0.4, (4, 3, 3, 3)), "b": np.linspace(-1, 1, 4)}
CONV = helper.make_node("Conv", ["image", "w", "b"], ["c"], "conv")


def node(operator, inputs, outputs, name, **attributes):
    return helper.make_node(operator, inputs, outputs, name, **attributes)


def place(alpha: float, source: ActivationScale, made: ActivationScale) -> onnx.ModelProto:
    """DQ - HardSigmoid - Q over bytes, as the quantizer places them."""
    pairs = {"s": source.scale, "t": made.scale}
    zeros = {"z": source.zero_point, "o": made.zero_point}
    graph = helper.make_graph(
        [
            node("DequantizeLinear", ["q", "s", "z"], ["x"], "dq"),
            node("HardSigmoid", ["x"], ["g"], "gate", alpha=alpha, beta=0.5),
            node("QuantizeLinear", ["g", "t", "o"], ["y"], "quantize"),
        ],
        "bytes",
        [helper.make_tensor_value_info("q", TensorProto.UINT8, [1, 256])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, [1, 256])],
        [numpy_helper.from_array(np.float32(value), name) for name, value in pairs.items()]
        + [numpy_helper.from_array(np.uint8(value), name) for name, value in zeros.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def make_gate(alpha: float, alone: bool) -> Gate:
    return Gate(node="gate", input="x", output="g", alpha=float(np.float32(alpha)), alone=alone)


slopes = st.sampled_from([1 / 6, 0.2, 1.0, 0.05]) | st.floats(0.01, 3)
ends = st.floats(-40, 0) | st.just(0.0)
tops = st.floats(0, 40)


@given(slopes, ends, tops, st.booleans())
def test_a_step_divides_the_bend_and_both_zero_points_are_bytes(alpha, low, high, alone) -> None:
    gate, chosen = make_gate(alpha, alone), choose_scale((low, high), signed=False)
    found = scale_gate(gate, chosen)
    bend = 0.5 / gate.alpha
    if found is None:
        assert max(chosen.high, 0) - min(0 if alone else chosen.low, -bend) > 255 * bend * 0.999
        return
    source, made = found
    steps = source.zero_point - made.zero_point
    assert 1 <= steps <= 255
    assert 0 <= made.zero_point <= source.zero_point <= 255
    assert source.scale * steps == pytest.approx(bend, rel=1e-6)
    assert made.scale * steps == pytest.approx(0.5, rel=1e-6)
    assert source.high >= chosen.high - 0.51 * source.scale
    assert source.low <= -bend * 0.999
    assert alone or source.low <= chosen.low + 0.51 * source.scale


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("alpha", [1 / 6, 0.2, 1.0])
@pytest.mark.parametrize("ends", [(-8.0, 21.0), (-0.5, 0.7), (0.0, 2.0), (-30.0, -1.0), (-3.0, 3.0), (-1.0, 90.0)])
def test_the_folded_gate_gives_the_bytes_of_the_float_one(run_graph, ends, alpha, alone) -> None:
    found = scale_gate(make_gate(alpha, alone), choose_scale(ends, signed=False))
    assert found is not None
    model = place(alpha, *found)
    (wanted,) = run_graph(model, BYTES, exact=True)
    fold_gates(model)
    assert [item.op_type for item in model.graph.node] in (["Clip"], ["Identity"])
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(run_graph(model, BYTES)[0], wanted)


@pytest.mark.parametrize(
    ("source", "made", "operator", "bounds"),
    [
        ((3 / 85, 85), (0.5 / 85, 0), "Clip", ["", "g_most"]),
        ((3 / 128, 128), (0.5 / 128, 0), "Identity", []),
        ((3 / 100, 180), (0.5 / 100, 80), "Clip", ["g_least"]),
        ((3 / 40, 90), (0.5 / 40, 50), "Clip", ["g_least", "g_most"]),
    ],
)
def test_a_bound_that_no_byte_passes_is_left_out(run_graph, source, made, operator, bounds) -> None:
    scales = [ActivationScale(scale=scale, zero_point=zero, low=0, high=0) for scale, zero in (source, made)]
    model = place(1 / 6, *scales)
    (wanted,) = run_graph(model, BYTES, exact=True)
    fold_gates(model)
    assert [(item.op_type, list(item.input)) for item in model.graph.node] == [(operator, ["q", *bounds])]
    np.testing.assert_array_equal(run_graph(model, BYTES)[0], wanted)


@pytest.mark.parametrize(
    ("source", "made"),
    [
        ((3 / 85.4, 85), (0.5 / 85, 0)),  # the bend is between two steps
        ((3 / 85, 85), (0.5 / 85, 1)),  # another zero point
        ((3 / 85, 85), (1 / 255, 0)),  # another scale
    ],
)
def test_scales_that_do_not_fit_leave_the_gate_in_float(source, made) -> None:
    scales = [ActivationScale(scale=scale, zero_point=zero, low=0, high=0) for scale, zero in (source, made)]
    model = place(1 / 6, *scales)
    before = model.SerializeToString()
    fold_gates(model)
    assert model.SerializeToString() == before


def test_a_range_too_wide_for_one_step_has_no_scale() -> None:
    assert scale_gate(make_gate(1 / 6, True), choose_scale((0.0, 3 * 255.0), signed=False)) is None


def test_gates_on_one_input_share_its_scales() -> None:
    gates = [
        make_gate(1 / 6, False),
        Gate(node="h", input="x", output="h", alpha=make_gate(1 / 6, False).alpha, alone=False),
    ]
    scales = {name: choose_scale((-7.3, 11.1), signed=False) for name in "xgh"}
    scale_gates(gates, scales)
    assert scales["g"] == scales["h"]
    assert scales["x"].scale == pytest.approx(6 * scales["g"].scale, rel=1e-6)


def test_h_swish_is_written_out_under_names_of_its_own(make_graph, run_graph, draw_images) -> None:
    nodes = [CONV, node("HardSwish", ["c"], ["out"], "act"), node("Relu", ["out"], ["out_gate"], "act_gate")]
    model = make_graph(nodes, WEIGHTS)
    wanted = run_graph(model, draw_images(2), exact=True)
    assert list(expand_hard_swish(model).values()) == ["act"]
    assert Counter(item.op_type for item in model.graph.node) == Counter(Conv=1, HardSigmoid=1, Mul=1, Relu=1)
    assert len({item.name for item in model.graph.node}) == 4
    np.testing.assert_allclose(run_graph(model, draw_images(2), exact=True)[0], wanted[0], atol=1e-6)


def test_a_hard_sigmoid_goes_into_the_layer_that_it_alone_reads(make_graph, run_graph, draw_images) -> None:
    fc = {"v": np.random.default_rng(1).normal(0, 1, (4, 5)), "e": np.linspace(-1, 1, 5)}
    nodes = [
        CONV,
        node("HardSigmoid", ["c"], ["g"], "gate", alpha=0.3, beta=0.4),
        node("GlobalAveragePool", ["g"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flat"),
        node("Gemm", ["f", "v", "e"], ["h"], "fc", alpha=2.0, beta=0.5),
        node("HardSigmoid", ["h"], ["out"], "last"),
    ]
    model = make_graph(nodes, {**WEIGHTS, **fc})
    prepared = prepare_model(model)
    assert [item.op_type for item in prepared.graph.node] == [
        "Conv",
        "Clip",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
        "Clip",
    ]
    assert Plan(prepared).excluded == {}
    images = draw_images(3)
    np.testing.assert_allclose(run_graph(prepared, images)[0], run_graph(model, images, exact=True)[0], atol=1e-5)


GATED = [CONV, node("HardSigmoid", ["c"], ["g"], "gate", **SIXTH)]
PRODUCT = node("Mul", ["c", "g"], ["out"], "mul")


def test_the_input_is_alone_if_nothing_but_its_own_product_reads_it(make_graph) -> None:
    assert [gate.alone for gate in find_gates(make_graph([*GATED, PRODUCT], WEIGHTS))] == [True]
    shared = [*GATED, node("Mul", ["c", "g"], ["m"], "mul"), node("Add", ["m", "c"], ["out"], "add")]
    assert [gate.alone for gate in find_gates(make_graph(shared, WEIGHTS))] == [False]
    squared = [*GATED, node("Mul", ["c", "c"], ["m"], "mul"), node("Mul", ["m", "g"], ["out"], "end")]
    assert [gate.alone for gate in find_gates(make_graph(squared, WEIGHTS))] == [False]


def test_an_input_that_is_an_output_is_not_alone(make_graph) -> None:
    model = make_graph([*GATED, PRODUCT], WEIGHTS)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    assert [gate.alone for gate in find_gates(model)] == [False]


SUM = node("Add", ["c", "c"], ["s"], "sum")
NETS = {
    "h-swish": ([CONV, node("HardSwish", ["c"], ["out"], "act")], 0),
    "a gate whose input others read": (
        [*GATED, node("Mul", ["c", "g"], ["m"], "m"), node("Add", ["m", "c"], ["out"], "a")],
        0,
    ),
    "two gates of one slope": (
        [*GATED, node("HardSigmoid", ["c"], ["h"], "gate2", **SIXTH), node("Mul", ["h", "g"], ["out"], "mul")],
        0,
    ),
    "two gates of two slopes": (
        [*GATED, node("HardSigmoid", ["c"], ["h"], "gate2"), node("Mul", ["h", "g"], ["out"], "mul")],
        1,
    ),
    "not one half at zero": (
        [CONV, node("HardSigmoid", ["c"], ["g"], "gate", alpha=0.2, beta=0.4), PRODUCT],
        1,
    ),
    "behind a Relu that merges": (
        [
            CONV,
            node("Relu", ["c"], ["r"], "r"),
            node("HardSigmoid", ["r"], ["g"], "gate", **SIXTH),
            node("MaxPool", ["g"], ["out"], "p", kernel_shape=[2, 2]),
        ],
        1,
    ),
    "behind a MaxPool that shares a scale": (
        [
            CONV,
            node("MaxPool", ["c"], ["r"], "p", kernel_shape=[2, 2]),
            node("HardSigmoid", ["r"], ["g"], "gate", **SIXTH),
            node("Mul", ["r", "g"], ["out"], "mul"),
        ],
        1,
    ),
    "read as it is and by a MaxPool": (
        [
            *GATED,
            node("Mul", ["c", "g"], ["m"], "m"),
            node("MaxPool", ["c"], ["p"], "p", kernel_shape=[1, 1]),
            node("Add", ["m", "p"], ["out"], "a"),
        ],
        0,
    ),
    "behind an operator in float": (
        [CONV, node("Softplus", ["c"], ["s"], "soft"), node("HardSwish", ["s"], ["out"], "act")],
        1,
    ),
    "before an operator in float": (
        [CONV, SUM, node("HardSigmoid", ["s"], ["g"], "gate", **SIXTH), node("Softplus", ["g"], ["out"], "soft")],
        2,
    ),
}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("recipe", ["portable", "u8u8", "s8s8-symmetric"])
def test_it_is_right_whatever_stands_around_it(make_graph, run_graph, draw_images, quantize_here, name, recipe) -> None:
    nodes, floats = NETS[name]
    model, images = make_graph(nodes, WEIGHTS), draw_images(8)
    int8, record = quantize_here(model, images, recipe=recipe)
    left = sum(item.op_type in ("HardSigmoid", "Softplus") for item in int8.graph.node)
    assert left == len(record.float_nodes)
    assert left == floats or recipe == "s8s8-symmetric"
    assert all(reason for reason in record.float_nodes.values())
    assert len(record.gates) == sum(item.op_type in ("Clip", "Identity") for item in int8.graph.node)
    wanted, exact = run_graph(model, images, exact=True)[0], run_graph(int8, images, exact=True)[0]
    step = (wanted.max() - wanted.min()) / 255
    assert 10 * np.log10((wanted**2).sum() / ((wanted - exact) ** 2).sum()) > 25
    assert np.abs(run_graph(int8, images)[0] - exact).max() <= 1.5 * step or recipe != "portable"


def test_a_gate_asked_to_stay_in_float_does(make_graph) -> None:
    model = prepare_model(make_graph([*GATED, PRODUCT], WEIGHTS))
    assert Plan(model).excluded == {}
    kept = Plan(model, ["gate"])
    assert "gate" in kept.excluded
    assert kept.gates == []


def test_inputs_that_are_outputs_keep_their_name_and_value(make_graph, run_graph, draw_images, quantize_here) -> None:
    model, images = make_graph([*GATED, PRODUCT], WEIGHTS), draw_images(8)
    model.graph.output.append(helper.make_tensor_value_info("c", TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_tensor_value_info("g", TensorProto.FLOAT, None))
    int8, record = quantize_here(model, images, recipe="portable")
    assert record.float_nodes == {}
    assert [value.name for value in int8.graph.output] == ["out", "c", "g"]
    for wanted, found in zip(run_graph(model, images, exact=True), run_graph(int8, images), strict=True):
        assert np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()  # a step of g is 1/48
