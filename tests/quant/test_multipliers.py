"""A depthwise convolution with several outputs a channel becomes one with a single one, over repeated channels."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from mbdeploy.quant.multipliers import spread_channels
from mbdeploy.quant.prepare import prepare_model
from mbdeploy.quant.qdq import Plan


def build(nodes: str, **weights: tuple[int, ...]) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = parser.parse_model(f"{header} g (float[N,4,6,6] image) => (float[N,C,H,W] y) {{ {nodes} }}")
    for name, shape in weights.items():
        array = np.random.default_rng(len(name)).normal(0, 1, shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}"
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"image": np.random.default_rng(0).normal(0, 1, (2, 4, 6, 6)).astype(np.float32)})[0]


@pytest.mark.parametrize("times", [2, 3])
def test_channels_are_repeated_and_the_same_is_computed(times: int) -> None:
    nodes = "a = Conv <group=4, pads=[1,1,1,1], strides=[2,2]> (image, w, b) r = Relu (a) y = Conv (r, v)"
    model = build(nodes, w=(4 * times, 1, 3, 3), b=(4 * times,), v=(5, 4 * times, 1, 1))
    prepared = prepare_model(model)
    assert [node.op_type for node in prepared.graph.node] == ["Gather", "Conv", "Relu", "Conv"]
    np.testing.assert_allclose(run(prepared), run(model), rtol=1e-5, atol=1e-5)
    plan = Plan(prepared)
    assert [(layer.node, layer.depthwise) for layer in plan.layers] == [("Conv_0", True), ("Conv_2", False)]
    assert not plan.excluded and plan.provider_of(prepared.graph.node[0].output[0]) == "image"


@pytest.mark.parametrize(
    ("nodes", "shape"),
    [
        ("y = Conv <group=4> (image, w)", (4, 1, 3, 3)),
        ("y = Conv <group=2> (image, w)", (4, 2, 3, 3)),
        ("y = Conv <group=1> (image, w)", (8, 4, 3, 3)),
        ("y = Conv (image, w)", (8, 4, 3, 3)),
        ("c = Identity (w) y = Conv <group=4> (image, c)", (8, 1, 3, 3)),
    ],
)
def test_other_convolutions_stay(nodes: str, shape: tuple[int, ...]) -> None:
    model = build(nodes, w=shape)
    before = model.SerializeToString()
    spread_channels(model)
    assert model.SerializeToString() == before


def test_names_that_are_taken_are_left_alone() -> None:
    nodes = "Conv_1_spread = Relu (image) y = Conv <group=4> (Conv_1_spread, w)"
    model = build(nodes, w=(8, 1, 3, 3))
    before = run(model)
    spread_channels(model)
    assert [node.output[0] for node in model.graph.node] == ["Conv_1_spread", "Conv_1_spread_", "y"]
    np.testing.assert_allclose(run(model), before)
