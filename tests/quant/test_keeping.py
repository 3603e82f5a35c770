"""What stays in float when someone asks for it."""

from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from mbdeploy.errors import UsageError
from mbdeploy.quant.keeping import add_followers, match_nodes


@pytest.fixture
def model():
    """conv1 -> x sigmoid(x) -> conv2 -> relu, and conv2's output is read by an Add as well."""
    nodes = [
        helper.make_node("Conv", ["image", "w1"], ["x"], "block.conv1"),
        helper.make_node("Sigmoid", ["x"], ["gate"], "block.sigmoid"),
        helper.make_node("Mul", ["x", "gate"], ["swish"], "block.mul"),
        helper.make_node("Conv", ["swish", "w2"], ["y"], "block.conv2"),
        helper.make_node("Relu", ["y"], ["z"], "block.relu"),
        helper.make_node("Add", ["y", "z"], ["sum"], "block.add"),
        helper.make_node("Conv", ["sum", "w3"], ["out"], "head"),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, 8, 8])
    return helper.make_model(helper.make_graph(nodes, "followers", [image], [out]))


def test_an_activation_goes_with_its_convolution(model: onnx.ModelProto) -> None:
    assert add_followers(model, ["block.conv1"]) == {"block.conv1", "block.sigmoid", "block.mul"}


def test_an_activation_that_is_not_the_only_reader_stays(model: onnx.ModelProto) -> None:
    assert add_followers(model, ["block.conv2"]) == {"block.conv2"}


def test_patterns_mean_all_nodes_they_match_in_order(model: onnx.ModelProto) -> None:
    assert match_nodes(model, ["head", "block.conv?"]) == ["block.conv1", "block.conv2", "head"]
    assert match_nodes(model, []) == []


def test_a_pattern_that_matches_nothing_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(UsageError, match=r"stem: expected the name of a node.*found no node of that name"):
        match_nodes(model, ["head", "stem"])
