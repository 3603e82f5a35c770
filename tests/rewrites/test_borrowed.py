"""Rewrites that onnx-ir and onnxscript ship, as we use them."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, parser

from mbdeploy.rewrites import rewrite_model

CONV = {"w": (4, 3, 3, 3), "b": (4,)}
BATCH_NORM = {"gamma": (4,), "beta": (4,), "mean": (4,), "var": (4,)}
FRAME = [0, 0, 1, 1, 0, 0, 1, 1]
PAD_CONV = "p = Pad (image, pads) y = Conv (p, w, b)"
HARD_SIGMOID = "h = HardSigmoid <alpha=0.16666667, beta=0.5> (image) y = Mul (image, h)"


def test_a_zero_pad_before_a_conv_becomes_its_pads(rewritten) -> None:
    assert rewritten("pad_into_conv", PAD_CONV, pads=[0, 0, 0, 1, 0, 0, 2, 1], **CONV) == "Conv"


def test_a_pad_adds_to_the_pads_that_the_conv_has(rewritten) -> None:
    nodes = "p = Pad (image, pads, zero) y = Conv <pads=[1,0,2,1]> (p, w, b)"
    assert rewritten("pad_into_conv", nodes, opset=13, pads=FRAME, zero=0.0, **CONV) == "Conv"


def test_a_pad_that_names_its_axes_becomes_pads(rewritten) -> None:
    nodes = "p = Pad (image, pads, , axes) y = Conv (p, w, b)"
    assert rewritten("pad_into_conv", nodes, opset=18, pads=[1, 2], axes=[-1], **CONV) == "Conv"


def test_a_pad_that_two_convs_use_goes_into_both(rewritten) -> None:
    nodes = "p = Pad (image, pads) c = Conv (p, w, b) d = Conv (p, v) y = Add (c, d)"
    assert rewritten("pad_into_conv", nodes, pads=FRAME, v=(4, 3, 3, 3), **CONV) == "Conv Conv Add"


def test_a_pad_that_something_else_uses_too_stays_for_it(rewritten) -> None:
    nodes = "p = Pad (image, pads) c = Conv (p, w, b) m = ReduceMax (p) y = Add (c, m)"
    assert rewritten("pad_into_conv", nodes, pads=FRAME, **CONV) == "Pad Conv ReduceMax Add"


@pytest.mark.parametrize(
    ("what", "pads"),
    [
        ("(image, pads, one)", FRAME),
        ('<mode="reflect"> (image, pads)', FRAME),
        ('<mode="edge"> (image, pads)', FRAME),
        ("(image, pads)", [0, 0, -1, 0, 0, 0, 0, 0]),
    ],
)
def test_a_pad_by_other_than_zeros_stays(rewritten, what, pads) -> None:
    assert rewritten("pad_into_conv", f"p = Pad {what} y = Conv (p, w, b)", pads=pads, one=1.0, **CONV) is None


def test_a_pad_of_channels_stays(rewritten) -> None:
    assert rewritten("pad_into_conv", PAD_CONV, pads=[0, 1, 0, 0, 0, 1, 0, 0], w=(4, 5, 3, 3), b=(4,)) is None


def test_a_pad_before_a_conv_that_pads_itself_stays(rewritten) -> None:
    nodes = 'p = Pad (image, pads) y = Conv <auto_pad="SAME_UPPER"> (p, w, b)'
    assert rewritten("pad_into_conv", nodes, pads=FRAME, **CONV) is None


def test_a_pad_before_an_average_pool_stays(rewritten) -> None:
    nodes = "p = Pad (image, pads) y = AveragePool <kernel_shape=[2,2]> (p)"
    assert rewritten("pad_into_conv", nodes, pads=FRAME) is None


def test_a_batch_norm_goes_into_the_conv_before_it(rewritten) -> None:
    nodes = "c = Conv (image, w, b) y = BatchNormalization (c, gamma, beta, mean, var)"
    assert rewritten("batch_norm_into_conv", nodes, **CONV, **BATCH_NORM) == "Conv"


@pytest.mark.slow
def test_a_batch_norm_goes_into_the_gemm_before_it(rewritten) -> None:
    nodes = "f = Flatten (image) c = Gemm <transB=1> (f, k, b) y = BatchNormalization (c, gamma, beta, mean, var)"
    assert rewritten("batch_norm_into_conv", nodes, k=(4, 192), b=(4,), **BATCH_NORM) == "Flatten Gemm"


def test_a_batch_norm_of_a_conv_that_is_used_elsewhere_stays(rewritten) -> None:
    nodes = "c = Conv (image, w, b) n = BatchNormalization (c, gamma, beta, mean, var) y = Add (n, c)"
    assert rewritten("batch_norm_into_conv", nodes, **CONV, **BATCH_NORM) is None


def test_a_hard_sigmoid_times_x_is_a_hard_swish(rewritten) -> None:
    assert rewritten("hard_swish", HARD_SIGMOID) == "HardSwish"


def test_there_is_no_hard_swish_before_opset_14(rewritten) -> None:
    assert rewritten("hard_swish", HARD_SIGMOID, opset=13) is None


def test_a_hard_sigmoid_of_another_slope_stays(rewritten) -> None:
    assert rewritten("hard_swish", HARD_SIGMOID.replace("0.16666667", "0.2")) is None


def test_min_of_max_is_a_clip(rewritten) -> None:
    assert rewritten("merge_clips", "m = Max (image, zero) y = Min (m, six)", zero=0.0, six=6.0) == "Clip"


def test_a_relu_and_a_clip_are_one_clip(rewritten) -> None:
    assert rewritten("merge_clips", "r = Relu (image) y = Clip (r, , six)", six=6.0) == "Clip"


def test_a_relu_alone_stays(rewritten) -> None:
    assert rewritten("merge_clips", "y = Relu (image)") is None


def test_two_transposes_are_one(rewritten) -> None:
    nodes = "t = Transpose <perm=[0,2,3,1]> (image) y = Transpose <perm=[0,2,1,3]> (t)"
    assert rewritten("merge_moves", nodes) == "Transpose"


def test_two_reshapes_are_one(rewritten) -> None:
    nodes = "r = Reshape (image, first) y = Reshape (r, second)"
    assert rewritten("merge_moves", nodes, first=[-1, 24, 8], second=[-1, 192]) == "Reshape"


def test_a_channel_shuffle_stays(rewritten) -> None:
    nodes = "r = Reshape (image, split) t = Transpose <perm=[0,2,1,3,4]> (r) y = Reshape (t, join)"
    assert rewritten("merge_moves", nodes, split=[-1, 3, 2, 4, 8], join=[-1, 6, 4, 8]) is None


def test_constant_nodes_become_initializers(rewritten) -> None:
    nodes = "a = Constant <value_float=1.5> () b = Constant <value = float {2.0}> () c = Mul (image, a) y = Add (c, b)"
    assert rewritten("lift_constants", nodes) == "Mul Add"


def test_an_initializer_that_an_input_could_replace_becomes_constant(build_graph, assert_same) -> None:
    model = build_graph("y = Mul (image, k)", k=1.5)
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, []))
    lifted = ir.from_proto(model)
    (change,) = rewrite_model(lifted, ["lift_constants"])
    assert change.nodes == ("k",)
    assert [value.name for value in lifted.graph.inputs] == ["image"]
    assert_same(model, ir.to_proto(lifted))


def test_a_local_function_is_written_out(build_graph, assert_same) -> None:
    model = build_graph("y = Relu (image)")
    double = parser.parse_function('<domain: "local", opset_import: ["": 17]> twice (a) => (b) { b = Add (a, a) }')
    model.functions.append(double)
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.graph.node[0].op_type, model.graph.node[0].domain = "twice", "local"
    written = ir.from_proto(model)
    changes = rewrite_model(written, ["inline_functions", "drop_unused"])
    assert [change.name for change in changes] == ["inline_functions"]
    result = ir.to_proto(written)
    assert [node.op_type for node in result.graph.node] == ["Add"]
    assert [opset.domain for opset in result.opset_import] == [""]
    assert_same(model, result)


def test_equal_scalars_become_one(rewritten) -> None:
    assert rewritten("share_constants", "a = Mul (image, one) y = Add (a, uno)", one=1.5, uno=1.5) == "Mul Add"


def test_what_no_output_needs_is_dropped(rewritten) -> None:
    assert rewritten("drop_unused", "dead = Exp (image) y = Relu (image)", unused=(3,)) == "Relu"
