"""GELU becomes one node before Q/DQ pairs surround it; the opset rises only where that changes nothing else."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from mbdeploy.quant.gelu import fuse_gelus

GELU = "d = Div (x, root) e = Erf (d) a = Add (e, one) m = Mul (x, a) y = Mul (m, half)"


def build(nodes: str, opset: int = 18) -> onnx.ModelProto:
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    model = parser.parse_model(f"{header} g (float[N,3,6,6] x) => (float[N,C,H,W] y) {{ {nodes} }}")
    for name, number in {"root": 2**0.5, "one": 1.0, "half": 0.5}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array(number, np.float32), name))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 6, 6, 2), np.float32), "grid"))
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.op_type}_{position}"
    return model


def run(model: onnx.ModelProto) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["y"], {"x": np.random.default_rng(0).normal(0, 2, (1, 3, 6, 6)).astype(np.float32)})[0]


@pytest.mark.parametrize(("opset", "raised"), [(18, 20), (19, 20), (20, 20), (21, 21)])
@pytest.mark.parametrize("nodes", [GELU, GELU.replace("(e, one)", "(one, e)").replace("(x, a)", "(a, x)")])
def test_it_becomes_one_node_that_computes_the_same(nodes: str, opset: int, raised: int) -> None:
    model = build(nodes, opset)
    before = run(model)
    fuse_gelus(model)
    assert [node.op_type for node in model.graph.node] == ["Gelu"] and model.graph.node[0].name == "Mul_4"
    assert model.opset_import[0].version == raised and model.ir_version >= 9
    onnx.checker.check_model(model)
    np.testing.assert_allclose(run(model), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "nodes",
    [
        GELU.replace("Mul (m, half)", "Mul (m, one)"),
        GELU.replace("Div (x, root)", "Div (root, x)"),
        GELU.replace("Add (e, one)", "Add (e, half)"),
        GELU.replace("Mul (x, a)", "Mul (d, a)"),
        GELU.replace("y = Mul (m, half)", "z = Mul (m, half) y = Add (z, e)"),
        GELU.replace("y = Mul (m, half)", "z = Mul (m, half) y = Add (z, d)"),
        "y = Erf (x)",
        "d = Div (x, root) y = Erf (d)",
    ],
)
def test_what_is_no_gelu_stays_and_so_does_the_opset(nodes: str) -> None:
    model = build(nodes)
    before = model.SerializeToString()
    fuse_gelus(model)
    assert model.SerializeToString() == before


def test_older_opsets_and_operators_that_change_keep_the_five_nodes() -> None:
    for model in (build(GELU, 17), build(GELU.replace("y =", "z =") + ' y = GridSample <mode="bilinear"> (z, grid)')):
        before = model.SerializeToString()
        fuse_gelus(model)
        assert model.SerializeToString() == before
