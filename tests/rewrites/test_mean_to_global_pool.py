"""Spatial means, however they are written, become GlobalAveragePool; other means stay."""

from __future__ import annotations

import pytest

NAME = "mean_to_global_pool"


def test_the_mean_over_height_and_width_is_a_global_pool(rewritten) -> None:
    assert rewritten(NAME, "y = ReduceMean <axes=[2,3]> (image)") == "GlobalAveragePool"


def test_without_keepdims_a_flatten_follows(rewritten) -> None:
    nodes = "y = ReduceMean <axes=[-1,-2], keepdims=0> (image)"
    assert rewritten(NAME, nodes, opset=13) == "GlobalAveragePool Flatten"


def test_the_axes_may_be_an_input(rewritten) -> None:
    nodes = "y = ReduceMean <keepdims=0> (image, axes)"
    assert rewritten(NAME, nodes, opset=18, axes=[2, 3]) == "GlobalAveragePool Flatten"


@pytest.mark.parametrize(("first", "second"), [(3, 2), (2, 2), (2, -1), (-1, -1)])
def test_a_mean_over_one_axis_and_then_the_other_is_a_global_pool(rewritten, first, second) -> None:
    nodes = f"m = ReduceMean <axes=[{first}], keepdims=0> (image) y = ReduceMean <axes=[{second}], keepdims=0> (m)"
    assert rewritten(NAME, nodes) == "ReduceMean GlobalAveragePool Flatten"


def test_two_means_that_keep_their_axes_are_a_global_pool(rewritten) -> None:
    nodes = "m = ReduceMean <axes=[2]> (image) y = ReduceMean <axes=[3]> (m)"
    assert rewritten(NAME, nodes) == "ReduceMean GlobalAveragePool"


@pytest.mark.parametrize(
    "nodes",
    [
        "y = ReduceMean <axes=[3]> (image)",
        "y = ReduceMean <axes=[1]> (image)",
        "y = ReduceMean <axes=[0,2,3]> (image)",
        "y = ReduceMean <axes=[1,2,3]> (image)",
        "y = ReduceMean (image)",
        "m = ReduceMean <axes=[3], keepdims=0> (image) y = ReduceMean <axes=[1], keepdims=0> (m)",
        "m = ReduceMean <axes=[3]> (image) y = ReduceMean <axes=[2], keepdims=0> (m)",
        "s = Reshape (image, to) y = ReduceMean <axes=[2,3]> (s)",
        "c = Cast <to=11> (image) m = ReduceMean <axes=[2,3]> (c) y = Cast <to=1> (m)",
    ],
)
def test_another_mean_stays(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, to=[-1, 3, 4, 2, 8]) is None


def test_a_mean_over_computed_axes_stays(rewritten) -> None:
    nodes = "s = Shape <start=2> (image) a = Div (s, divisor) y = ReduceMean (image, a)"
    assert rewritten(NAME, nodes, opset=18, divisor=[4, 3]) is None
