"""A Reshape to a computed target gets a constant one, if the batch is all that it depends on."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from mbdeploy.rewrites import rewrite_model

NAME = "fix_reshapes"
BATCH = "s = Shape (image) n = Gather (s, first) "


@pytest.mark.parametrize(
    ("target", "to"),
    [
        ("t = Concat <axis=0> (n, rest)", [-1, 192]),
        ("t = Concat <axis=0> (n, open)", [-1, 192]),
        ("t = Concat <axis=0> (n, open, eight)", [-1, 24, 8]),
        ("t = Concat <axis=0> (open, eight, n)", [24, 8, -1]),
    ],
)
def test_a_target_that_follows_the_batch_is_written_with_minus_1(rewritten, build_graph, target, to) -> None:
    constants = {"first": [0], "rest": [192], "open": [-1], "eight": [8]}
    nodes = f"{BATCH} {target} y = Reshape (image, t)"
    assert rewritten(NAME, nodes, opset=14, **constants) == "Shape Gather Concat Reshape"
    model = ir.from_proto(build_graph(nodes, opset=14, **constants))
    rewrite_model(model, [NAME])
    assert model.graph.initializers["y/shape"].const_value.numpy().tolist() == to


def test_a_target_that_is_constant_stays(rewritten) -> None:
    assert rewritten(NAME, "y = Reshape (image, to)", to=[0, -1]) is None


def test_a_target_that_does_not_follow_the_batch_stays(rewritten) -> None:
    nodes = f"{BATCH} d = Mul (n, two) t = Concat <axis=0> (d, open) y = Reshape (image, t)"
    assert rewritten(NAME, nodes, first=[0], two=[2], open=[-1]) is None
