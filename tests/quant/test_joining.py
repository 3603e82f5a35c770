"""Sums and products between operators of float stay in float, and nothing else does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from mbdeploy.quant.joining import find_joined
from mbdeploy.quant.prepare import prepare_model
from mbdeploy.quant.qdq import Plan


def build(nodes: str) -> onnx.ModelProto:
    header = '<ir_version: 10, opset_import: ["": 18]>'
    model = parser.parse_model(f"{header} g (float[N,3,6,6] image) => (float[N,C,H,W] y) {{ {nodes} }}")
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.normal(0, 1, (3, 3, 1, 1)),
        "one": 1.0,
        "half": 0.5,
        "tiny": 1e-6,
        "slope": np.full((3, 1, 1), 0.2),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
    for position, node in enumerate(model.graph.node):
        node.name = f"{node.output[0]}_{position}"
    return onnx.shape_inference.infer_shapes(model)


def list_joined(nodes: str, *floats: str) -> str:
    """The results of the nodes that join, in the order of their names."""
    model = build(nodes)
    names = {node.name for node in model.graph.node if node.op_type in floats}
    return " ".join(sorted(name.partition("_")[0] for name in find_joined(model, names)))


@pytest.mark.parametrize(
    ("nodes", "joined"),
    [
        # the divisor of a linear attention: as bytes it may be zero
        ("a = Conv (image, w) b = Exp (a) c = Add (b, tiny) d = Div (a, c) y = Conv (d, w)", "c"),
        # a GELU by tanh: x is read in float, so that its products are as well
        (
            "x = Conv (image, w) p = Tanh (x) q = Add (one, p) r = Mul (x, q) s = Mul (half, r) y = Conv (s, w)",
            "q r s",
        ),
        # what only float reads, and a constant: one conversion either way
        ("x = Conv (image, w) s = Mul (x, half) e = Exp (s) y = Conv (e, w)", "s"),
        # moves between two operators of float
        ("x = Conv (image, w) e = Exp (x) t = Transpose (e) n = Neg (t) y = Conv (n, w)", "t"),
        # a sum with a tensor of int8 needs a conversion that int8 does not
        ("x = Conv (image, w) e = Exp (x) z = Conv (image, w) s = Add (e, z) y = Conv (s, w)", ""),
        # neither does what int8 reads as well, nor an output
        ("x = Conv (image, w) s = Mul (x, half) e = Exp (s) z = Conv (s, w) y = Add (e, z)", ""),
        ("x = Conv (image, w) y = Mul (x, half) e = Exp (y)", ""),
        # moves in front of int8, and behind it, cost less as bytes
        ("x = Conv (image, w) e = Exp (x) t = Transpose (e) y = Conv (t, w)", ""),
        ("x = Conv (image, w) t = Transpose (x) e = Exp (t) y = Conv (e, w)", ""),
        # layers never join, nor does the gate of an h-swish make its product join
        ("x = Conv (image, w) e = Exp (x) c = Conv (e, w) y = Exp (c)", ""),
        ("x = Conv (image, w) h = HardSigmoid (x) m = Mul (x, h) y = Conv (m, w)", ""),
    ],
)
def test_what_costs_no_conversion_stays_with_its_neighbours(nodes: str, joined: str) -> None:
    assert list_joined(nodes, "Exp", "Div", "Tanh", "Neg", "HardSigmoid") == joined


def test_the_plan_says_why_and_what_was_asked_for_draws_nothing_along() -> None:
    model = build("x = Conv (image, w) e = Exp (x) s = Add (e, one) n = Neg (s) z = Conv (n, w) y = Add (z, x)")
    plan = Plan(prepare_model(model), keep_float=["z_4"])
    assert plan.excluded["s_2"] == "kept in float: its neighbours have no int8 kernel"
    assert set(plan.excluded) == {"e_1", "s_2", "n_3", "z_4"}


def test_what_computes_shapes_is_not_in_float() -> None:
    model = build("x = Conv (image, w) s = Shape (x) g = Gather (s, s) e = Exp (x) y = Conv (e, w)")
    plan = Plan(prepare_model(model))
    assert list(plan.list_float(plan.model)) == ["e_3"] and "s_1" in plan.excluded
