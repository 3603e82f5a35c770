"""Nodes of an optimised graph are found in the file that it was made of."""

from __future__ import annotations

from onnx import GraphProto, NodeProto, helper

from mbdeploy.auditing.origins import BLOCKED, find_origins


def make_graph(*nodes: NodeProto) -> GraphProto:
    return helper.make_graph(nodes, "g", [], [])


SOURCE = make_graph(
    helper.make_node("Conv", ["x", "w"], ["c"], "first"),
    helper.make_node("Clip", ["c", "low", "high"], ["r"], "clip"),
    helper.make_node("Conv", ["r", "w"], ["d"], "second"),
    helper.make_node("Add", ["r", "d"], ["s"], "add"),
    helper.make_node("MaxPool", ["s"], ["p"], "pool"),
)


def test_a_name_of_the_file_s_stays_with_and_without_a_token() -> None:
    optimised = make_graph(
        helper.make_node("QLinearConv", [], ["a"], "first"),
        helper.make_node("DequantizeLinear", [], ["b"], "second_token_17"),
    )
    assert find_origins(SOURCE, optimised) == {"first": "first", "second_token_17": "second"}


def test_a_node_on_blocks_of_channels_is_the_layer_before_the_activation_function_that_it_took_in() -> None:
    optimised = make_graph(
        helper.make_node("Conv", [], ["t0"], "r_nchwc", domain=BLOCKED),
        helper.make_node("Conv", [], ["t1"], "s_nchwc", domain=BLOCKED),
        helper.make_node("MaxPool", [], ["t2"], "p_nchwc", domain=BLOCKED),
    )
    assert find_origins(SOURCE, optimised) == {"r_nchwc": "first", "s_nchwc": "second", "p_nchwc": "pool"}


def test_a_fused_convolution_is_found_by_what_it_makes() -> None:
    optimised = make_graph(helper.make_node("FusedConv", [], ["r"], "fused", domain="com.microsoft"))
    assert find_origins(SOURCE, optimised) == {"fused": "first"}


def test_a_node_that_nothing_in_the_file_explains_keeps_its_name() -> None:
    optimised = make_graph(
        helper.make_node("ReorderInput", [], ["t"], "ReorderInput_token_9", domain=BLOCKED),
        helper.make_node("Conv", [], ["t3"], "unknown_nchwc", domain=BLOCKED),
    )
    assert find_origins(SOURCE, optimised) == {
        "ReorderInput_token_9": "ReorderInput_token_9",
        "unknown_nchwc": "unknown_nchwc",
    }


def test_the_parts_of_an_inlined_function_are_the_operator_that_it_was() -> None:
    source = make_graph(
        helper.make_node("HardSwish", ["x"], ["h"], "swish"),
        helper.make_node("QuantizeLinear", ["h", "s", "z"], ["q"], "quantize"),
        helper.make_node("HardSwish", ["q"], ["i"], "other"),
    )
    optimised = make_graph(
        helper.make_node("HardSigmoid", ["x"], ["t0"], "HardSigmoid_9"),
        helper.make_node("Mul", ["x", "t0"], ["t1"], "Mul_10"),
        helper.make_node("QuantizeLinear", ["t1", "s", "z"], ["t2"], "quantize_token_3"),
        helper.make_node("Mul", ["t2", "t2"], ["i"], "Mul_11"),
        helper.make_node("Mul", ["t2", "t2"], ["nobody's"], "Mul_12"),
    )
    assert find_origins(source, optimised) == {
        "HardSigmoid_9": "swish",
        "Mul_10": "swish",
        "quantize_token_3": "quantize",
        "Mul_11": "other",
        "Mul_12": "Mul_12",
    }
