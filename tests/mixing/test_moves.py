"""Which layers may go to float together."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.mixing.kit import Kit
from mbdeploy.mixing.moves import find_moves
from mbdeploy.quant.qdq import Plan


@pytest.fixture
def moves(kit: Kit):
    return {move.name: move for move in find_moves(kit.floats, Plan(kit.floats).layers)}


def test_every_layer_is_a_move_of_its_own(moves):
    alone = [move.layers for move in moves.values() if move.kind == "layer"]
    assert alone == [("stem",), ("expand",), ("depthwise",), ("project",), ("head",)]


def test_the_layers_of_a_residual_block_are_one_move(moves):
    assert moves["expand .. project"].layers == ("expand", "depthwise", "project")
    assert moves["expand .. project"].kind == "block"


def test_the_ends_of_the_network_are_moves(moves):
    assert moves["first 2 layers"].layers == ("stem", "expand")
    assert moves["last 3 layers"].layers == ("depthwise", "project", "head")


def test_no_two_moves_have_the_same_layers(moves):
    assert len({move.layers for move in moves.values()}) == len(moves)
    assert "depthwise layers" not in moves  # there is one, which is a move of its own


def test_a_move_of_all_layers_is_none(moves):
    assert all(len(move.layers) < 5 for move in moves.values())


def test_squeeze_and_excite_branches_are_one_move_and_the_head_is_not_in_it():
    weights = {"a.w": (8, 3, 1, 1), "r.w": (4, 8, 1, 1), "x.w": (8, 4, 1, 1), "b.w": (8, 8, 1, 1), "h.w": (5, 8, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["image", "a.w"], ["a"], "first"),
        helper.make_node("GlobalAveragePool", ["a"], ["g"], "pool"),
        helper.make_node("Conv", ["g", "r.w"], ["r"], "reduce"),
        helper.make_node("Conv", ["r", "x.w"], ["x"], "excite"),
        helper.make_node("Sigmoid", ["x"], ["gate"], "sigmoid"),
        helper.make_node("Mul", ["a", "gate"], ["m"], "scale"),
        helper.make_node("Conv", ["m", "b.w"], ["b"], "second"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], "pool.last"),
        helper.make_node("Conv", ["p", "h.w"], ["logits"], "head"),
    ]
    graph = helper.make_graph(
        nodes,
        "squeeze",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5, 1, 1])],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    found = [move.layers for move in find_moves(model, Plan(model).layers) if move.kind == "squeeze"]
    blocks = [move.layers for move in find_moves(model, Plan(model).layers) if move.kind == "block"]
    assert found == [] and blocks == [("reduce", "excite")]  # one branch is a block already
