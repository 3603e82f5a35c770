"""Nodes that hand on their input go, and the names of inputs and outputs stay."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from mbdeploy.rewrites import rewrite_model

NAME = "drop_no_ops"


def test_what_hands_on_its_input_goes(rewritten) -> None:
    nodes = "i = Identity (image) d = Dropout (i) t = Cast <to=1> (d) m = Mul (t, one) a = Add (zero, m) y = Relu (a)"
    assert rewritten(NAME, nodes, one=1.0, zero=0.0) == "Relu"


def test_a_reshape_to_the_same_shape_goes_though_the_batch_is_unknown(rewritten) -> None:
    nodes = "r = Reshape (image, to) f = Flatten (r) g = Flatten (f) y = Relu (g)"
    assert rewritten(NAME, nodes, to=[-1, 3, 8, 8]) == "Flatten Relu"


def test_the_last_node_hands_on_its_name(rewritten) -> None:
    assert rewritten(NAME, "r = Relu (image) y = Identity (r)") == "Relu"


@pytest.mark.parametrize(
    "nodes",
    [
        "y = Identity (image)",
        "y = Mul (image, two)",
        "c = Cast <to=7> (image) y = Cast <to=1> (c)",
        "y = Reshape (image, to)",
        "y = Transpose <perm=[0,1,3,2]> (image)",
        "d, mask = Dropout (image) y = Where (mask, d, two)",
    ],
)
def test_what_does_something_stays(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, two=2.0, to=[-1, 8, 3, 8]) is None


def test_two_outputs_of_one_value_keep_both_names(build_graph, assert_same) -> None:
    model = build_graph("y = Relu (image) z = Identity (y)")
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    rewrites = ir.from_proto(model)
    assert rewrite_model(rewrites, [NAME]) == ()
    assert [output.name for output in rewrites.graph.outputs] == ["y", "z"]
    assert_same(model, ir.to_proto(rewrites))


def test_a_dropout_that_trains_stays(build_graph) -> None:
    model = build_graph("t = Identity (yes) y = Dropout (image, half, t)", half=0.5, yes=1)
    model.graph.initializer[1].data_type = TensorProto.BOOL
    model.graph.initializer[1].raw_data = b"\x01"
    rewrites = ir.from_proto(model)
    rewrite_model(rewrites, [NAME])
    assert "Dropout" in [node.op_type for node in rewrites.graph]
