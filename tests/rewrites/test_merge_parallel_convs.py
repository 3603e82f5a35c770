"""Convs of one tensor that are added become one, unless one window does not lie inside the other at every size."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from mbdeploy.rewrites import rewrite_model

NAME = "merge_parallel_convs"
WEIGHTS = {
    "w3": (3, 3, 3, 3),
    "w1": (3, 3, 1, 1),
    "w5": (3, 3, 5, 5),
    "b": (3,),
    "d3": (3, 1, 3, 3),
    "d1": (3, 1, 1, 1),
}
MORE = {"row": (3, 3, 1, 3), "column": (3, 3, 3, 1), "w2": (3, 3, 2, 2), "b1": (1, 3, 1, 1), "narrow": (1, 3, 1, 1)}
NORM = dict.fromkeys(("gamma", "beta", "mean", "variance"), (3,))
BATCH_NORM = "n = BatchNormalization (image, gamma, beta, mean, variance)"
DENSE = "k = Conv <pads=[1,1,1,1]> (image, w3, b)"
DEPTHWISE = "k = Conv <group=3, pads=[1,1,1,1]> (image, d3, b)"


@pytest.mark.parametrize("conv", [DENSE, DEPTHWISE])
@pytest.mark.parametrize("ending", ["y = Add (k, n)", "y = Sub (n, k)", "y = Sub (k, n)"])
def test_a_norm_of_what_a_conv_reads_goes_into_it(rewritten, conv, ending) -> None:
    assert rewritten(NAME, f"{conv} {BATCH_NORM} {ending}", **WEIGHTS, **NORM) == "Conv"


@pytest.mark.parametrize("ending", ["y = Add (image, k)", "y = Sub (k, image)", "y = Sub (image, k)"])
def test_so_does_what_it_reads(rewritten, ending) -> None:
    assert rewritten(NAME, f"{DEPTHWISE} {ending}", **WEIGHTS) == "Conv"


def test_all_branches_of_a_block_become_one(rewritten) -> None:
    nodes = f"{DENSE} {BATCH_NORM} p = Conv (image, w1) s = Add (k, p) y = Add (s, n)"
    assert rewritten(NAME, nodes, **WEIGHTS, **NORM) == "Conv"


def test_a_block_with_layer_scale_around_branches_becomes_one(build_graph, assert_same) -> None:
    """FastViT's mixer: x + scale * (branches(x) - norm(x))."""
    nodes = (
        f"{DEPTHWISE} p = Conv <group=3> (image, d1) {BATCH_NORM} "
        "t = Add (p, k) m = Sub (t, n) s = Mul (m, scale) y = Add (image, s)"
    )
    graph = build_graph(nodes, scale=(3, 1, 1), **WEIGHTS, **NORM)
    model = ir.from_proto(graph)
    [merged, folded] = sorted(rewrite_model(model, [NAME, "affine_into_conv"]), key=lambda change: -change.count)
    assert (merged.name, merged.count, folded.name, folded.count) == (NAME, 3, "affine_into_conv", 1)
    assert [node.op_type for node in model.graph] == ["Conv"]
    assert_same(graph, ir.to_proto(model))


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Conv <strides=[2,2], pads=[1,1,1,1]> (image, w3) c = Conv <strides=[2,2]> (image, w1, b) y = Add (a, c)",
        "a = Conv <dilations=[2,2], pads=[2,2,2,2]> (image, w3) c = Conv (image, w1) y = Add (c, a)",
        "a = Conv <pads=[2,1,0,1]> (image, w3) c = Conv <pads=[1,0,0,1]> (image, w2) y = Add (a, c)",
        "a = Conv <pads=[0,0,1,1]> (image, w1) c = Conv <pads=[1,1,1,1]> (image, w2) y = Add (a, c)",
        "a = Conv <pads=[2,2,2,2]> (image, w5) c = Conv <pads=[1,1,1,1]> (image, w3) y = Sub (c, a)",
        'a = Conv <auto_pad="VALID"> (image, w3) c = Conv (image, w3, b) y = Sub (a, c)',
        "a = Conv <pads=[1,1,1,1]> (image, w3) c = Conv <pads=[1,1,1,1], dilations=[1,1]> (image, w3) y = Add (a, c)",
    ],
)
def test_two_convs_whose_windows_fit_become_one(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, w2=MORE["w2"], **WEIGHTS) == "Conv"


def test_kernels_of_unlike_length_per_axis_fit_where_each_axis_does(rewritten) -> None:
    nodes = "a = Conv <pads=[1,1,1,1]> (image, w3) c = Conv <pads=[0,1,0,1]> (image, row) y = Add (a, c)"
    assert rewritten(NAME, nodes, row=MORE["row"], **WEIGHTS) == "Conv"


@pytest.mark.parametrize(
    "nodes",
    [
        f"{DENSE} r = Relu (image) p = Conv (r, w1) y = Add (k, p)",
        f"{DENSE} p = Conv (image, w1) s = Add (k, p) y = Mul (s, p)",
        f"{DENSE} p = Conv <group=3> (image, d1) y = Add (k, p)",
        f"{DENSE} y = Mul (k, image)",
        f"{DENSE} r = Relu (image) y = Add (k, r)",
        f"{BATCH_NORM} y = Add (n, image)",
        f"{BATCH_NORM} y = Add (n, b1)",
        "a = Conv <dilations=[2,2], pads=[2,2,2,2]> (image, w3) c = Conv <pads=[1,1,1,1]> (image, w3) y = Add (a, c)",
        "a = Conv <pads=[2,2,0,0]> (image, w3) c = Conv <pads=[0,0,2,2]> (image, w3) y = Add (a, c)",
        "a = Conv <pads=[0,1,0,1]> (image, row) c = Conv <pads=[1,0,1,0]> (image, column) y = Add (a, c)",
        "a = Conv <strides=[8,1], pads=[1,1,1,1]> (image, w3) c = Conv <strides=[8,8]> (image, w1) y = Add (a, c)",
        'a = Conv <auto_pad="SAME_UPPER"> (image, w3) c = Conv (image, w1) y = Add (a, c)',
        "a = Conv <strides=[4,4], pads=[1,1,1,1]> (image, w3) c = Conv <strides=[4,4]> (image, w2) y = Sub (a, c)",
        f"{DENSE} one = Conv (image, narrow) y = Add (k, one)",
    ],
)
def test_what_is_no_sum_of_convs_stays(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, **MORE, **WEIGHTS, **NORM) is None


def test_weights_that_would_overflow_stay(build_graph) -> None:
    graph = build_graph(f"{DENSE} {BATCH_NORM} y = Add (k, n)", **WEIGHTS, **NORM)
    for initializer in graph.graph.initializer:
        if initializer.name == "gamma":
            initializer.raw_data = np.full(3, 3e38, np.float32).tobytes()
        if initializer.name == "variance":
            initializer.raw_data = np.full(3, 1e-30, np.float32).tobytes()
    assert not rewrite_model(ir.from_proto(graph), [NAME])
