"""A constant scale or offset after a Conv goes into it, unless something else would change."""

from __future__ import annotations

import pytest

NAME = "affine_into_conv"
CONV = {"w": (4, 3, 3, 3), "b": (4,)}
START = "c = Conv (image, w, b)"


def test_a_scale_and_an_offset_per_channel_go_into_the_conv(rewritten) -> None:
    nodes = f"{START} s = Mul (c, scale) y = Add (offset, s)"
    assert rewritten(NAME, nodes, scale=(1, 4, 1, 1), offset=(4, 1, 1), **CONV) == "Conv"


def test_a_divisor_and_a_subtrahend_go_into_a_conv_without_bias(rewritten) -> None:
    nodes = "c = Conv <group=3> (image, w) s = Div (c, two) y = Sub (s, two)"
    assert rewritten(NAME, nodes, w=(6, 1, 3, 3), two=2.0) == "Conv"


def test_a_conv_that_shares_its_weights_leaves_them_to_the_other(rewritten) -> None:
    nodes = f"{START} s = Mul (c, two) d = Conv (image, w) y = Add (s, d)"
    assert rewritten(NAME, nodes, two=2.0, **CONV) == "Conv Conv Add"


@pytest.mark.parametrize(
    "nodes",
    [
        f"{START} y = Sub (two, c)",
        f"{START} y = Div (two, c)",
        f"{START} s = Mul (c, two) y = Add (s, c)",
        f"{START} y = Mul (c, per_column)",
        f"{START} y = Add (c, of_more_axes)",
        f"{START} d = Div (c, zero) i = IsInf (d) y = Cast <to=1> (i)",
        f"{START} r = Relu (c) y = Mul (r, two)",
        "y = Mul (image, two)",
        "a = Add (w, w) c = Conv (image, a, b) y = Mul (c, two)",
    ],
)
def test_an_affine_that_a_conv_cannot_hold_stays(rewritten, nodes) -> None:
    constants = {"two": 2.0, "zero": 0.0, "per_column": (6,), "of_more_axes": (1, 1, 4, 1, 1)}
    assert rewritten(NAME, nodes, **constants, **CONV) is None
