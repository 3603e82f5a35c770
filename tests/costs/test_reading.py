"""Reading a graph: order, shapes, folded shape arithmetic, Q/DQ pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mbdeploy.costs.folding import fold_node, read_attributes
from mbdeploy.costs.report import InspectReport
from mbdeploy.errors import ModelError

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]
Array = np.ndarray[Any, Any]


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


def pad_chain() -> list[onnx.NodeProto]:
    """What exporters write for TensorFlow's SAME: the padding computed from the input's own height."""
    return [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "two"], ["height"], "height"),
        helper.make_node("Cast", ["height"], ["real"], "cast", to=TensorProto.FLOAT),
        helper.make_node("Div", ["real", "stride"], ["halved"], "halve"),
        helper.make_node("Ceil", ["halved"], ["ceil"], "ceil"),
        helper.make_node("Cast", ["ceil"], ["rows"], "cast_back", to=TensorProto.INT64),
        helper.make_node("Sub", ["rows", "three"], ["extra"], "extra"),
        helper.make_node("Unsqueeze", ["extra", "zero"], ["more"], "more"),
        helper.make_node("Concat", ["zeros", "more", "more"], ["pads"], "pads", axis=0),
        helper.make_node("Pad", ["x", "pads"], ["padded"], "pad"),
        helper.make_node("Conv", ["padded", "w"], ["y"], "conv", strides=[2, 2]),
    ]


CHAIN = {
    "two": np.array(2),
    "three": np.array(3),
    "zero": np.array([0]),
    "stride": np.float32(2),
    "zeros": np.zeros(6, np.int64),
    "w": zeros(4, 2, 3, 3),
}


def test_shape_arithmetic_is_folded_and_its_result_is_used(make_model: Make, look: Look) -> None:
    report = look(make_model(pad_chain(), ["n", 2, 8, 8], CHAIN))
    assert [layer.name for layer in report.layers] == ["pad", "conv"]
    assert report.layers[0].output == (1, 2, 9, 9)
    assert report.layers[1].output == (1, 4, 4, 4)
    assert report.folded == 9


def test_a_file_out_of_order_is_put_in_order(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Relu", ["c"], ["y"], "relu"),
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
    ]
    report = look(make_model(nodes, [1, 4, 2, 2], {"w": zeros(4, 4, 1, 1)}))
    assert [layer.name for layer in report.layers] == ["conv", "relu"]


def test_nodes_in_a_circle_are_refused(make_model: Make, look: Look) -> None:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two")]
    with pytest.raises(ModelError, match="circle"):
        look(make_model(nodes, [1, 4, 2, 2], output="b"))


def test_unnamed_and_equally_named_nodes_get_names_of_their_own(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"], "same"),
        helper.make_node("Relu", ["b"], ["y"], "same"),
    ]
    names = [layer.name for layer in look(make_model(nodes, [1, 4])).layers]
    assert len(set(names)) == 3


def test_a_dynamic_height_is_refused_until_an_input_shape_fills_it_in(make_model: Make, look: Look) -> None:
    model = make_model([helper.make_node("Conv", ["x", "w"], ["y"])], ["n", 4, "h", "w"], {"w": zeros(2, 4, 1, 1)})
    with pytest.raises(ModelError, match="--input-shape"):
        look(model)
    assert look(model, input_shape=(4, 3, 5)).total.macs == 2 * 15 * 4
    with pytest.raises(ModelError, match="fits"):
        look(model, input_shape=(3, 3, 5))


def test_a_graph_of_constants_alone_is_refused(make_model: Make, look: Look) -> None:
    model = make_model([helper.make_node("Shape", ["x"], ["y"], "shape")], [1, 4])
    with pytest.raises(ModelError, match="constants only"):
        look(model)


def test_local_functions_are_inlined_before_counting(make_model: Make, look: Look) -> None:
    body = [helper.make_node("Conv", ["a", "w"], ["c"], "inner"), helper.make_node("Relu", ["c"], ["b"], "act")]
    model = make_model(
        [helper.make_node("Block", ["x", "w"], ["y"], "block", domain="mine")], [1, 4, 2, 2], domains=["mine"]
    )
    model.graph.initializer.append(numpy_helper.from_array(zeros(4, 4, 1, 1), "w"))
    opsets = [helper.make_opsetid("", 18)]
    model.functions.append(helper.make_function("mine", "Block", ["a", "w"], ["b"], body, opsets))
    report = look(model)
    assert [layer.operator for layer in report.layers] == ["Conv", "Relu"]
    assert report.total.macs == 64


def test_control_flow_is_uncounted_and_holds_on_to_what_its_bodies_read(make_model: Make, look: Look) -> None:
    def branch(name: str) -> onnx.GraphProto:
        output = helper.make_tensor_value_info(f"{name}_out", TensorProto.FLOAT, [1, 4])
        return helper.make_graph([helper.make_node("Abs", ["kept"], [f"{name}_out"], name)], name, [], [output])

    nodes = [
        helper.make_node("Relu", ["x"], ["kept"], "relu"),
        helper.make_node("ReduceSum", ["x"], ["sum"], "sum", keepdims=0),
        helper.make_node("Cast", ["sum"], ["yes"], "cast", to=TensorProto.BOOL),
        helper.make_node("If", ["yes"], ["y"], "if", then_branch=branch("then"), else_branch=branch("else")),
    ]
    report = look(make_model(nodes, [1, 4]))
    assert [(node.name, node.reason) for node in report.uncounted] == [("if", "control flow: its body is not counted")]


def quantize_by_hand() -> tuple[list[onnx.NodeProto], dict[str, Any]]:
    """x -> Q -> DQ -> Conv(weights and bias behind DQ) -> Q -> DQ -> y, written out of order as quantizers do."""
    nodes = [
        helper.make_node("Conv", ["x_dq", "w_dq", "b_dq"], ["c"], "conv"),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "q1"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], "dq1"),
        helper.make_node("DequantizeLinear", ["w_q", "ws", "wz"], ["w_dq"], "dqw", axis=0),
        helper.make_node("DequantizeLinear", ["b_q", "ws"], ["b_dq"], "dqb", axis=0),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["c_q"], "q2"),
        helper.make_node("DequantizeLinear", ["c_q", "s", "z"], ["y"], "dq2"),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(0),
        "ws": np.full(4, 0.01, np.float32),
        "wz": np.zeros(4, np.int8),
        "w_q": np.ones((4, 2, 1, 1), np.int8),
        "b_q": np.ones(4, np.int32),
    }
    return nodes, constants


def test_q_and_dq_are_seen_through_and_int8_weights_count(make_model: Make, look: Look) -> None:
    nodes, constants = quantize_by_hand()
    report = look(make_model(nodes, [1, 2, 3, 3], constants))
    assert (report.precision, report.quantizers, report.nodes) == ("int8", 6, 1)
    layer = report.layers[0]
    assert (layer.macs, layer.weights, layer.parameters) == (72, 8, 12)
    assert layer.bytes_int8 == 18 + 36 + 8 + 16
    assert layer.bytes_fp32 == 4 * (18 + 36 + 12)
    assert report.memory.int8_bytes == 18 + 36


def test_a_qlinearconv_counts_like_the_convolution_it_is(make_model: Make, look: Look) -> None:
    inputs = ["x_q", "s", "z", "w_q", "ws", "wz", "s", "z", "b_q"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "q"),
        helper.make_node("QLinearConv", inputs, ["c_q"], "conv"),
        helper.make_node("DequantizeLinear", ["c_q", "s", "z"], ["y"], "dq"),
    ]
    report = look(make_model(nodes, [1, 2, 3, 3], quantize_by_hand()[1]))
    assert [(layer.macs, layer.weights, layer.parameters) for layer in report.layers] == [(72, 8, 12)]
    assert report.layers[0].bytes_int8 == 18 + 36 + 8 + 16


def test_weights_computed_from_constants_are_weights(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("Transpose", ["stored"], ["w"], "transpose", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    report = look(make_model(nodes, [1, 4], {"stored": zeros(1000, 4)}))
    assert [(layer.name, layer.weights) for layer in report.layers] == [("matmul", 4000)]


def test_an_external_weight_counts_by_its_shape(make_model: Make, look: Look) -> None:
    model = make_model([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], [1, 4, 2, 2], {"w": zeros(4, 4, 1, 1)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    report = look(model)
    assert report.total.weights == 16
    assert {finding.rule for finding in report.findings} <= {"MB105"}  # nothing about what the weights are


@pytest.mark.slow
@given(
    numerator=st.lists(st.integers(-1000, 1000), min_size=1, max_size=4),
    divisor=st.integers(-20, 20).filter(bool),
)
def test_integer_division_rounds_as_onnx_does(numerator: list[int], divisor: int) -> None:
    values = [np.array(numerator), np.array([divisor])]
    node = helper.make_node("Div", ["a", "b"], ["y"])
    expected = [int(value / divisor) for value in numerator]
    found = fold_node("Div", read_attributes(node), values)
    assert found is not None
    assert found.tolist() == expected


FOLDED = [
    (helper.make_node("Slice", ["a", "b", "c", "d", "e"], ["y"]), [np.arange(8), [7], [-100], [0], [-2]]),
    (helper.make_node("Slice", ["a", "b", "c"], ["y"]), [np.arange(8), [2], [-1]]),
    (helper.make_node("Gather", ["a", "b"], ["y"]), [np.arange(8), [-1]]),
    (helper.make_node("Reshape", ["a", "b"], ["y"]), [np.arange(8), [2, -1]]),
    (helper.make_node("Squeeze", ["a", "b"], ["y"]), [np.ones((1, 3), np.int64), [0]]),
    (helper.make_node("Unsqueeze", ["a", "b"], ["y"]), [np.arange(3), [0, 2]]),
    (helper.make_node("ConstantOfShape", ["a"], ["y"]), [[2, 3]]),
    (helper.make_node("Concat", ["a", "b"], ["y"], axis=0), [np.arange(3), np.arange(2)]),
    (helper.make_node("Transpose", ["a"], ["y"]), [np.arange(6).reshape(2, 3)]),
    (helper.make_node("Expand", ["a", "b"], ["y"]), [np.arange(3), [2, 3]]),
    (helper.make_node("Where", ["a", "b", "c"], ["y"]), [np.array([True, False]), np.arange(2), np.arange(5, 7)]),
    (helper.make_node("ReduceProd", ["a"], ["y"], keepdims=0), [np.arange(1, 5)]),
    (helper.make_node("Cast", ["a"], ["y"], to=TensorProto.INT64), [np.array([1.7, -1.7], np.float32)]),
    (helper.make_node("Max", ["a", "b"], ["y"]), [np.arange(4), np.array([2])]),
]


@pytest.mark.parametrize(("node", "values"), FOLDED, ids=lambda value: getattr(value, "op_type", ""))
def test_folding_agrees_with_onnxs_own_evaluator(node: onnx.NodeProto, values: list[Any]) -> None:
    arrays = [np.asarray(value) for value in values]
    expected = ReferenceEvaluator(node).run(None, dict(zip(node.input, arrays, strict=True)))[0]
    found = fold_node(node.op_type, read_attributes(node), arrays)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("operator", "values"),
    [
        ("Div", [np.array([1]), np.array([0])]),
        ("Reshape", [np.arange(4), np.array([3, -1])]),
        ("ConstantOfShape", [np.array([1 << 20, 1 << 20])]),
        ("Range", [np.array(0), np.array(1 << 40), np.array(1)]),
        ("Gather", [np.arange(3), np.array([9])]),
        ("Expand", [np.array([1]), np.array([1 << 40])]),
    ],
)
def test_what_cannot_or_should_not_be_computed_has_no_value(operator: str, values: list[Array]) -> None:
    assert fold_node(operator, {}, values) is None


@pytest.mark.sweep
def test_every_shape_read_equals_that_of_onnxs_own_test_data(look: Look) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the generators of ONNX overflow on purpose
        from onnx.backend.test.case.node import collect_testcases

        cases = [case for case in collect_testcases(None) if case.model is not None]
    assert len(cases) > 1000
    compared = 0
    for case in cases:
        try:
            found = look(case.model).outputs
        except ModelError:
            continue  # a graph of constants alone
        for output, value in zip(case.model.graph.output, case.data_sets[0][1], strict=False):
            if output.name in found and isinstance(value, np.ndarray):
                assert found[output.name] == value.shape, case.name
                compared += 1
    assert compared > 1000
