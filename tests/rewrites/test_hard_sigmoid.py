"""A hard sigmoid is found in every spelling that exporters have for it, and nothing else is taken for one."""

from __future__ import annotations

import pytest

NAME = "hard_sigmoid"
NUMBERS = {"three": 3.0, "zero": 0.0, "six": 6.0, "sixth": 1 / 6, "minus": -3.0, "half": 0.5, "one": 1.0, "fifth": 0.2}
CLIP = "a = Add (image, three) r = Clip (a, zero, six)"


@pytest.mark.parametrize(
    "nodes",
    [
        f"{CLIP} y = Div (r, six)",
        f"{CLIP} y = Mul (r, sixth)",
        f"{CLIP} y = Mul (sixth, r)",
        "a = Add (three, image) r = Clip (a, zero, six) y = Div (r, six)",
        "a = Sub (image, minus) r = Clip (a, zero, six) y = Mul (r, sixth)",
        "m = Mul (image, fifth) a = Add (m, half) y = Clip (a, zero, one)",
        "m = Div (image, six) a = Add (m, half) y = Clip (a, zero, one)",
        "a = Add (image, half) y = Clip (a, zero, one)",
    ],
)
def test_a_shifted_clip_over_its_width_is_a_hard_sigmoid(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, **NUMBERS).split()[-1] == "HardSigmoid"


@pytest.mark.parametrize(
    "nodes",
    [
        f"e = Relu (image) {CLIP} m = Mul (e, r) y = Div (m, six)",
        f"e = Relu (image) {CLIP} m = Mul (r, e) y = Mul (sixth, m)",
        f"e = Relu (image) d = Div (e, six) {CLIP} y = Mul (d, r)",
        f"e = Relu (image) d = Mul (sixth, e) {CLIP} y = Mul (r, d)",
    ],
)
def test_a_factor_on_a_product_goes_into_the_gate(rewritten, nodes) -> None:
    operators = rewritten(NAME, nodes, **NUMBERS).split()
    assert operators[-2:] == ["HardSigmoid", "Mul"]


def test_min_of_max_counts_as_a_clip_once_it_is_one(build_graph, rewritten) -> None:
    nodes = "a = Add (image, three) m = Max (a, zero) r = Min (m, six) y = Div (r, six)"
    assert rewritten(NAME, nodes, **NUMBERS) is None  # merge_clips comes first


@pytest.mark.parametrize(
    "nodes",
    [
        "a = Add (image, three) r = Clip (a, zero, three) y = Div (r, six)",
        "a = Add (image, one) r = Clip (a, zero, six) y = Div (r, six)",
        "a = Add (image, three) r = Clip (a, minus, six) y = Div (r, six)",
        "a = Add (image, three) r = Clip (a, zero, six) y = Div (six, r)",
        "a = Add (image, three) r = Clip (a, zero, six) y = Mul (r, three)",
        "a = Add (image, three) r = Clip (a, zero) y = Div (r, six)",
        "a = Sub (three, image) r = Clip (a, zero, six) y = Div (r, six)",
        "r = Clip (image, zero, six) y = Div (r, six)",
        f"{CLIP} y = Mul (r, image)",
        f"{CLIP} y = Mul (r, r)",
    ],
)
def test_what_is_no_hard_sigmoid_stays(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, **NUMBERS) is None


@pytest.mark.parametrize(
    "nodes",
    [
        f"{CLIP} d = Div (r, six) y = Add (d, r)",
        f"{CLIP} d = Div (r, six) y = Add (d, a)",
        f"{CLIP} m = Mul (r, image) d = Div (m, six) y = Add (d, m)",
        f"e = Div (image, six) {CLIP} m = Mul (e, r) y = Add (m, e)",
    ],
)
def test_what_others_read_on_the_way_stays(rewritten, nodes) -> None:
    assert rewritten(NAME, nodes, **NUMBERS) is None


def test_a_constant_that_enlarges_the_result_stays(rewritten) -> None:
    nodes = "a = Add (image, shift) r = Clip (a, zero, six) y = Div (r, six)"
    assert rewritten(NAME, nodes, **NUMBERS, shift=(1, 1, 1, 1, 1)) is None


def test_integers_stay(rewritten) -> None:
    nodes = "c = Cast <to=7> (image) a = Add (c, i3) r = Clip (a, i0, i6) d = Div (r, i6) y = Cast <to=1> (d)"
    assert rewritten(NAME, nodes, i3=3, i0=0, i6=6) is None


def test_with_its_factor_x_it_is_a_hard_swish(build_graph) -> None:
    import onnx_ir as ir

    from mbdeploy.rewrites import REWRITES, rewrite_model

    model = ir.from_proto(build_graph(f"{CLIP} m = Mul (image, r) y = Mul (m, sixth)", **NUMBERS))
    rewrite_model(model, list(REWRITES))
    assert [node.op_type for node in model.graph] == ["HardSwish"]
