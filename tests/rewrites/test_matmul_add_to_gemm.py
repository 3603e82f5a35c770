"""A matrix product and its bias are one Gemm, where a Gemm can do it."""

from __future__ import annotations

import pytest

NAME = "matmul_add_to_gemm"
START = "f = Flatten (image) m = MatMul (f, w)"


@pytest.mark.parametrize("bias", [(5,), (1, 5), (1,), (1, 1)])
def test_a_product_and_a_bias_are_one_gemm(rewritten, bias) -> None:
    assert rewritten(NAME, f"{START} y = Add (bias, m)", opset=13, w=(192, 5), bias=bias) == "Flatten Gemm"


def test_a_bias_that_enlarges_the_result_stays(rewritten) -> None:
    assert rewritten(NAME, f"{START} y = Add (m, bias)", w=(192, 5), bias=(2, 1, 5)) is None


def test_a_product_of_more_than_matrices_stays(rewritten) -> None:
    assert rewritten(NAME, "m = MatMul (image, w) y = Add (m, bias)", w=(8, 5), bias=(5,)) is None


def test_a_product_of_two_results_stays(rewritten) -> None:
    nodes = "f = Flatten (image) g = Transpose (f) m = MatMul (f, g) y = Add (m, bias)"
    assert rewritten(NAME, nodes, bias=(1,)) is None
