"""The frontier: images in files, run on layer by layer with what was stored, and nothing left that is not needed."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.errors import ModelError
from mbdeploy.quant.frontier import Frontier


@pytest.fixture
def model(make_graph):
    """Two 1x1 layers in 8 bits and a float one, by hand: y = 2 x, z = y + 1, w = z; every activation step is 1."""

    def step(name, slot):
        return [
            helper.make_node("QuantizeLinear", [name, "one", "zero"], [f"{name}_q"], f"q_{slot}"),
            helper.make_node("DequantizeLinear", [f"{name}_q", "one", "zero"], [f"{name}_d"], f"d_{slot}"),
        ]

    def constant(name, scale, zero):
        return helper.make_node("DequantizeLinear", [name, scale, zero], [f"{name}_d"], f"d_{name}", axis=0)

    nodes = [
        *step("image", 0),
        constant("w1", "s1", "z1"),
        constant("b1", "s1", "z4"),
        helper.make_node("Conv", ["image_d", "w1_d", "b1_d"], ["y"], "first"),
        *step("y", 1),
        constant("w2", "s2", "z1"),
        constant("b2", "s2", "z4"),
        helper.make_node("Conv", ["y_d", "w2_d", "b2_d"], ["z"], "second"),
        *step("z", 2),
        helper.make_node("Conv", ["z_d", "w3"], ["out"], "third"),
    ]
    constants = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "z1": np.zeros(1, np.int8),
        "z4": np.zeros(1, np.int32),
        "w1": np.array([[[[4]]]], np.int8),
        "b1": np.array([0], np.int32),
        "s1": np.array([0.5], np.float32),
        "w2": np.array([[[[1]]]], np.int8),
        "b2": np.array([1], np.int32),
        "s2": np.array([1.0], np.float32),
        "w3": np.ones((1, 1, 1, 1), np.float32),
    }
    return make_graph(nodes, constants, shape=("n", 1, 2, 2))


IMAGES = [np.array([[[[1, 2], [3, 4]]]], np.float32), np.array([[[[5, 6], [7, 8]]]], np.float32)]


@pytest.fixture
def frontier(model, tmp_path):
    made = Frontier(model, ["first", "second", "third"], tmp_path, 1)
    for image in IMAGES:
        made.add_image(image)
    return made


def test_each_layer_s_input_is_what_the_layers_before_it_give(frontier):
    found = []
    for layer in ("first", "second", "third"):
        frontier.advance()
        found.append([frontier.read_input(layer, image).reshape(-1).tolist() for image in range(2)])
    assert found == [
        [[1, 2, 3, 4], [5, 6, 7, 8]],
        [[2, 4, 6, 8], [10, 12, 14, 16]],
        [[3, 5, 7, 9], [11, 13, 15, 17]],
    ]
    assert frontier.read_input("third", 0).dtype == np.uint8


def test_what_is_stored_changes_the_next_layer_s_input(frontier):
    frontier.advance()
    frontier.store("first", 1, np.array([[[[3]]]]), np.array([1.0], np.float32))
    frontier.store("first", 2, np.array([10.0]), np.array([1.0], np.float32))
    frontier.advance()
    assert frontier.read_input("second", 0).reshape(-1).tolist() == [13, 16, 19, 22]


def test_stored_constants_keep_their_type_and_shape(frontier, model):
    frontier.store("first", 1, np.array([[7]]), np.array([0.25], np.float32))
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    assert stored["w1"].data_type == TensorProto.INT8
    assert numpy_helper.to_array(stored["w1"]).tolist() == [[[[7]]]]
    assert numpy_helper.to_array(stored["s1"]).tolist() == [0.25]


def test_files_of_tensors_that_no_later_layer_reads_are_gone(frontier, tmp_path):
    counts = [len(list(tmp_path.iterdir()))]
    for _ in range(4):
        frontier.advance()
        counts.append(len(list(tmp_path.iterdir())))
    assert counts == [2, 2, 2, 2, 0]


def test_a_tensor_that_a_later_layer_reads_stays(make_graph, tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "one", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["d"], "d"),
        helper.make_node("Conv", ["d", "w"], ["y"], "first"),
        helper.make_node("Conv", ["y", "w"], ["z"], "second"),
        helper.make_node("Add", ["z", "d"], ["s"], "add"),
        helper.make_node("Conv", ["s", "w"], ["out"], "third"),
    ]
    constants = {"one": np.float32(1), "zero": np.uint8(0), "w": np.full((1, 1, 1, 1), 2, np.float32)}
    frontier = Frontier(make_graph(nodes, constants, shape=("n", 1, 2, 2)), ["first", "second", "third"], tmp_path, 1)
    frontier.add_image(IMAGES[0])
    counts = []
    for _ in range(4):
        frontier.advance()
        counts.append(len(list(tmp_path.iterdir())))
    assert counts == [1, 2, 1, 0]
    assert not any(frontier.is_quantized(layer) for layer in ("first", "second", "third"))


def test_a_layer_is_quantized_if_both_its_input_and_its_weight_are(frontier):
    assert [frontier.is_quantized(layer) for layer in ("first", "second", "third")] == [True, True, False]


def test_without_images_nothing_runs(model, tmp_path):
    frontier = Frontier(model, ["first", "second", "third"], tmp_path, 1)
    for _ in range(4):
        frontier.advance()
    assert list(tmp_path.iterdir()) == []


def test_an_image_of_another_shape_is_an_error_of_the_model(frontier):
    frontier.add_image(np.zeros((1, 3, 2, 2), np.float32))
    with pytest.raises(ModelError, match="runs on the calibration images"):
        frontier.advance()
