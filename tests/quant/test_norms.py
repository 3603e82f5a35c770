"""A batch norm between operators of int8 becomes the convolution that it is; any other stays."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from mbdeploy.quant.norms import find_norms, turn_norms
from mbdeploy.quant.prepare import prepare_model
from mbdeploy.quant.qdq import Plan

NORM = "n = BatchNormalization (c, gamma, beta, mean, variance)"
START = "a = Conv (image, w) b = Relu (a) c = Concat <axis=1> (a, b)"
END = "r = Relu (n) y = Conv (r, v)"


def build(nodes: str, **changed: np.ndarray) -> onnx.ModelProto:
    header = '<ir_version: 8, opset_import: ["": 17]>'
    model = parser.parse_model(f"{header} g (float[N,3,6,6] image) => (float[N,C,H,W] y) {{ {nodes} }}")
    rng = np.random.default_rng(0)
    arrays = {name: rng.uniform(0.2, 1, 4).astype(np.float32) for name in ("gamma", "beta", "mean", "variance")}
    arrays |= {
        "w": rng.normal(0, 1, (2, 3, 1, 1)),
        "v": rng.normal(0, 1, (5, 4, 3, 3)),
        "slope": np.full((4, 1, 1), 0.2),
    }
    for name, array in (arrays | changed).items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}"
    return onnx.shape_inference.infer_shapes(model)


def run(model: onnx.ModelProto) -> np.ndarray:
    image = np.random.default_rng(1).normal(0, 1, (2, 3, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"image": image})[0]


@pytest.mark.parametrize(
    "nodes",
    [
        f"{START} {NORM} {END}",
        f"{START} n = BatchNormalization <epsilon=0.1> (c, gamma, beta, mean, variance) y = Conv (n, v)",
        f"{START} {NORM} h = HardSwish (n) y = Conv (h, v)",
        f"{START} {NORM} m = BatchNormalization (n, gamma, beta, mean, variance) y = Conv (m, v)",
        f"{START} {NORM} y = Add (n, c)",
    ],
)
def test_a_norm_between_int8_becomes_a_convolution_that_computes_the_same(nodes: str) -> None:
    model = build(nodes)
    prepared = prepare_model(model)
    np.testing.assert_allclose(run(prepared), run(model), rtol=1e-5, atol=1e-5)
    assert "BatchNormalization" not in {node.op_type for node in prepared.graph.node}
    layer = next(layer for layer in Plan(prepared).layers if layer.node == "BatchNormalization_3")
    assert layer.depthwise
    floats = {name for name in Plan(prepared).excluded if not name.endswith("gate")}
    assert not floats


@pytest.mark.parametrize(
    "nodes",
    [
        f"{START} {NORM} p = PRelu (n, slope) y = Conv (p, v)",
        f"{START} {NORM} e = Exp (n) f = Relu (n) y = Add (e, f)",
        f"{START} d = Exp (c) n = BatchNormalization (d, gamma, beta, mean, variance) y = Conv (n, v)",
        f"{START} y = BatchNormalization (c, gamma, beta, mean, variance)",
        f"{START} s = Add (gamma, beta) n = BatchNormalization (c, s, beta, mean, variance) {END}",
    ],
)
def test_a_norm_beside_float_stays(nodes: str) -> None:
    prepared = prepare_model(build(nodes))
    assert [node.op_type for node in prepared.graph.node].count("BatchNormalization") == 1


def test_the_norm_of_an_image_or_of_features_without_positions_stays() -> None:
    first = "c = BatchNormalization (image, scale, scale, scale, scale) y = Conv (c, w)"
    last = (
        "a = Conv (image, w) b = GlobalAveragePool (a) f = Flatten (b) n = BatchNormalization (f, two, two, two, two)"
    )
    for nodes, constants in ((first, {"scale": np.ones(3)}), (f"{last} y = Relu (n)", {"two": np.ones(2)})):
        model = build(nodes, **constants)
        assert [node.op_type for node in prepare_model(model).graph.node].count("BatchNormalization") == 1


@pytest.mark.parametrize("variance", [-1.0, -1e-5, np.inf])
def test_a_norm_whose_weights_are_not_finite_or_whose_tensors_are_unknown_stays(variance: float) -> None:
    model = build(f"{START} {NORM} {END}", variance=np.full(4, variance), mean=np.full(4, np.inf))
    turn_norms(model)
    assert "BatchNormalization" in {node.op_type for node in model.graph.node}
    assert not find_norms(model, {}) and len(find_norms(model, {"c": 4})) == 1


def test_names_that_are_taken_are_left_to_their_owners() -> None:
    taken = np.full((4, 1, 1), 0.3, np.float32)
    nodes = f"{START} {NORM} m = Mul (n, BatchNormalization_3_weight) y = Conv (m, v)"
    model = build(nodes, BatchNormalization_3_weight=taken)
    prepared = prepare_model(model)
    np.testing.assert_allclose(run(prepared), run(model), rtol=1e-5, atol=1e-5)
    assert "BatchNormalization_3_weight_" in {tensor.name for tensor in prepared.graph.initializer}
