"""What depends on constants and known sizes only is computed; what depends on the batch is not."""

from __future__ import annotations

NAME = "fold_constants"


def test_a_pad_computed_from_the_height_is_constant_beside_a_dynamic_batch(rewritten) -> None:
    nodes = (
        "s = Shape (image) h = Gather (s, two) k = Div (h, eight) u = Unsqueeze (k, axis) "
        "z = ConstantOfShape <value = int64[1] {0}> (six) p = Concat <axis=0> (z, u, u) y = Pad (image, p)"
    )
    assert rewritten(NAME, nodes, two=2, eight=8, axis=[0], six=[6]) == "Pad"


def test_a_division_of_sizes_truncates_as_onnx_says(rewritten) -> None:
    nodes = (
        "s = Shape (image) h = Gather (s, two) n = Neg (h) k = Div (n, three) f = Cast <to=1> (k) y = Mul (image, f)"
    )
    assert rewritten(NAME, nodes, two=2, three=3) == "Mul"


def test_the_batch_is_not_known(rewritten) -> None:
    assert rewritten(NAME, "s = Shape (image) b = Gather (s, first) y = Cast <to=1> (b)", first=[0]) is None
    assert rewritten(NAME, "s = Shape (image) b = Gather (s, first) y = Cast <to=1> (b)", first=0) is None


def test_a_large_tensor_of_one_value_is_not_written_out(rewritten) -> None:
    nodes = "z = ConstantOfShape (many) r = ReduceSum <keepdims=0> (z) y = Add (image, r)"
    assert rewritten(NAME, nodes, many=[1 << 20]) is None
