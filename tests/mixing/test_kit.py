"""Mixed models made from a kit are what the quantizer itself would make."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.mixing.kit import Kit, Placer
from mbdeploy.model_file import copy_model
from mbdeploy.quant import qdq
from mbdeploy.quant.widen import widen_depthwise
from mbdeploy.quant.widen_image import widen_image


def place_slowly(kit: Kit, keep_float: tuple[str, ...]) -> onnx.ModelProto:
    model = copy_model(kit.floats)
    plan = qdq.Plan(model, keep_float)
    settled = {tensor.name: tensor for tensor in kit.settled.graph.initializer}
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in plan.layers:
        for name in (layer.weight, layer.bias):
            constants[name].CopyFrom(settled[name])
    placed = qdq.place_qdq(plan, kit.recipe, kit.activations, {x.weight: kit.weights[x.weight] for x in plan.layers})
    widen_image(placed)
    widen_depthwise(placed)
    return placed


def run(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images})[0]


@pytest.mark.slow
@pytest.mark.parametrize("keep_float", [(), ("stem",), ("expand", "depthwise", "project"), ("head",)])
def test_a_mix_placed_on_a_skeleton_is_the_one_the_quantizer_makes(kit: Kit, keep_float: tuple[str, ...]) -> None:
    made, wanted = Placer(kit).place(keep_float), place_slowly(kit, keep_float)
    assert list(made.graph.node) == list(wanted.graph.node)
    constants = {tensor.name: tensor for tensor in made.graph.initializer}
    assert constants == {tensor.name: tensor for tensor in wanted.graph.initializer}


@pytest.mark.slow
@pytest.mark.parametrize("keep_float", [("stem",), ("stem", "max"), ("second",)])
def test_what_stands_behind_a_pool_in_float_gets_the_scale_that_the_quantizer_gives_it(
    build_kit: Callable[[onnx.ModelProto], Kit], images: np.ndarray, keep_float: tuple[str, ...]
) -> None:
    random = np.random.default_rng(4)
    constants = {"stem.w": random.normal(0, 0.3, (8, 3, 3, 3)), "second.w": random.normal(0, 0.3, (5, 8, 1, 1))}
    nodes = [
        helper.make_node("Conv", ["image", "stem.w"], ["s"], "stem"),
        helper.make_node("Relu", ["s"], ["r"], "relu"),
        helper.make_node("MaxPool", ["r"], ["m"], "max", kernel_shape=[2, 2]),
        helper.make_node("Conv", ["m", "second.w"], ["c"], "second"),
        helper.make_node("GlobalAveragePool", ["c"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["logits"], "flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "pooled",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    kit = build_kit(model)
    made, wanted = Placer(kit).place(keep_float), place_slowly(kit, keep_float)
    assert list(made.graph.node) == list(wanted.graph.node)
    assert {t.name: t for t in made.graph.initializer} == {t.name: t for t in wanted.graph.initializer}
    np.testing.assert_allclose(run(made, images), run(kit.floats, images), atol=0.2)


def test_a_layer_in_float_has_its_own_weights_and_its_activation(kit: Kit) -> None:
    made = Placer(kit).place(("stem",))
    nodes = {node.name: node for node in made.graph.node}
    assert list(nodes["stem"].input) == ["image", "stem.w", "stem.b"]
    assert nodes["stem.relu"].input[0] == nodes["stem"].output[0]
    weight = next(tensor for tensor in made.graph.initializer if tensor.name == "stem.w")
    assert weight == next(tensor for tensor in kit.floats.graph.initializer if tensor.name == "stem.w")


def test_all_in_float_is_the_float_model(kit: Kit, images: np.ndarray) -> None:
    names = [node.name for node in kit.floats.graph.node]
    np.testing.assert_array_equal(run(Placer(kit).place(names), images), run(kit.floats, images))


def test_a_layer_alone_in_int8_is_nearer_to_float_than_all_of_them(kit: Kit, images: np.ndarray) -> None:
    placer, expected = Placer(kit), run(kit.floats, images)
    errors = [np.square(run(placer.place_alone([name]), images) - expected).sum() for name in ("stem", "project")]
    everything = np.square(run(placer.place(()), images) - expected).sum()
    assert 0 < max(errors) < everything


def test_a_layer_alone_in_int8_has_its_weight_on_the_grid(kit: Kit) -> None:
    made = Placer(kit).place_alone(["project"])
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    steps = weights["project.w"] / kit.weights["project.w"][:, None, None, None]
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-4)
    original = next(tensor for tensor in kit.floats.graph.initializer if tensor.name == "stem.w")
    np.testing.assert_array_equal(weights["stem.w"], numpy_helper.to_array(original))


def test_no_layer_in_int8_is_the_float_model(kit: Kit, images: np.ndarray) -> None:
    np.testing.assert_array_equal(run(Placer(kit).place_alone([]), images), run(kit.floats, images))
