"""Metrics: what they say of known arrays, that parts add up to the whole, and that NaN passes no gate."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mbdeploy.quant import metrics as module
from mbdeploy.quant.metrics import (
    check,
    compare_outputs,
    finish_sums,
    merge_sums,
    refuse_metrics,
    sum_errors,
    sum_outputs,
)
from mbdeploy.results import Metrics

ARRAYS = hnp.arrays(
    np.float32,
    st.tuples(st.integers(2, 6), st.integers(2, 5)),
    elements=st.floats(-100, 100, width=32, allow_subnormal=False),
)


def test_metrics_of_known_outputs() -> None:
    reference = np.array([[3.0, 1.0], [0.0, 2.0]])
    output = np.array([[3.0, 2.0], [2.0, 0.0]])
    found = compare_outputs(reference, output, scale=0.5)
    assert (found.images, found.elements, found.degenerate) == (2, 4, None)
    assert found.max_abs == 2.0
    assert found.sqnr_db == pytest.approx(10 * math.log10(14 / 9))
    assert found.cosine == pytest.approx(11 / math.sqrt(14 * 17))
    assert found.top1_agreement == 0.5
    assert found.max_lsb == 4.0


def test_equal_outputs_have_infinite_sqnr_and_pass_every_bound() -> None:
    values = np.array([[1.0, 2.0], [3.0, 5.0]])
    found = compare_outputs(values, values)
    assert (found.sqnr_db, found.max_abs, found.top1_agreement, found.max_lsb) == (math.inf, 0.0, 1.0, None)
    assert check("sqnr_db", "m", found.sqnr_db, 10, ">=").passed is True


@pytest.mark.parametrize(
    ("shape", "voters"),
    [((4, 10), 4), ((4, 10, 1, 1), 4), ((4, 3, 5, 6), 120), ((4, 1), None), ((4,), None), ((4, 3, 7), None)],
)
def test_classes_are_decided_on_axis_1_and_per_pixel(shape: tuple[int, ...], voters: int | None) -> None:
    reference = np.random.default_rng(0).normal(size=shape)
    output = reference.copy()
    if voters is not None:
        # Turn exactly one decision.
        first = (0, slice(None), *[0] * (len(shape) - 2))
        output[first] = -reference[first]
    agreement = compare_outputs(reference, output).top1_agreement
    assert agreement == (None if voters is None else pytest.approx(1 - 1 / voters))


@pytest.mark.parametrize(
    ("reference", "output", "reason"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "shape mismatch"),
        (np.zeros((0, 3)), np.zeros((0, 3)), "empty"),
        (np.array(1.0), np.array(1.0), "empty"),
        (np.array([[1.0, 2.0]]), np.array([[1.0, math.nan]]), "non-finite output: 1 of 2"),
        (np.array([[1.0, math.inf]]), np.array([[1.0, 2.0]]), "non-finite reference"),
        (np.array([[2.0, 2.0]]), np.array([[1.0, 2.0]]), "constant reference: every value is 2"),
        (np.array([[1.0, 2.0]]), np.array([[0.0, 0.0]]), "constant output: every value is 0"),
        (np.array([[1.0, 2.0], [2.0, 1.0]]), np.array([[1.0, 2.0], [1.0, 2.0]]), "the same for all 2 images"),
        (np.array([[1.0, 2.0]]), np.array([["a", "b"]]), "not a real number"),
        (np.array([[1e200, 2e200]]), np.array([[1e200, 3e200]]), "overflow"),
    ],
)
def test_degenerate_outputs_give_the_reason_and_no_number(
    reference: np.ndarray, output: np.ndarray, reason: str
) -> None:
    found = compare_outputs(reference, output)
    assert found.degenerate is not None and reason in found.degenerate
    assert all(math.isnan(value) for value in (found.max_abs, found.sqnr_db, found.cosine))
    assert found.top1_agreement is None


def test_an_output_that_the_reference_also_gives_for_every_image_is_no_fault() -> None:
    anchors = np.array([[1.0, 2.0], [1.0, 2.0]])
    assert compare_outputs(anchors, anchors).degenerate is None


@pytest.mark.parametrize("comparison", [">=", "<="])
@pytest.mark.parametrize("value", [math.nan, None])
def test_no_gate_passes_without_a_number(value: float | None, comparison: str) -> None:
    gate = check("sqnr_db", "m", value, 0.0, comparison)  # type: ignore[arg-type]
    assert gate.passed is False
    assert math.isnan(gate.value)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_gate_holds_exactly_when_its_comparison_does(value: float, bound: float) -> None:
    assert check("m", "s", value, bound, ">=").passed is (value >= bound)
    assert check("m", "s", value, bound, "<=").passed is (value <= bound)


def test_metrics_of_two_shards_are_those_of_both() -> None:
    reference = np.random.default_rng(0).normal(size=(6, 5))
    output = reference + np.random.default_rng(1).normal(size=(6, 5))
    whole = compare_outputs(reference, output, 0.5)
    for cut in range(1, len(reference)):
        shards = sum_outputs(reference[:cut], output[:cut]), sum_outputs(reference[cut:], output[cut:])
        assert_close(finish_sums(merge_sums(*shards), 0.5), whole)


@pytest.mark.parametrize("elements", [1, 7, 10])
def test_blocks_of_any_size_give_the_same_metrics(monkeypatch: pytest.MonkeyPatch, elements: int) -> None:
    reference = np.random.default_rng(0).normal(size=(6, 5))
    whole = compare_outputs(reference, reference[:, ::-1], 0.5)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", elements)
    assert_close(compare_outputs(reference, reference[:, ::-1], 0.5), whole)


@pytest.mark.slow
@given(ARRAYS, st.data())
def test_sums_of_parts_are_the_sums_of_the_whole(reference: np.ndarray, data: st.DataObject) -> None:
    output = data.draw(hnp.arrays(np.float32, reference.shape, elements=st.floats(-100, 100, width=32)))
    cut = data.draw(st.integers(1, len(reference) - 1))
    whole = finish_sums(sum_outputs(reference, output), 0.5)
    parts = finish_sums(
        merge_sums(sum_outputs(reference[:cut], output[:cut]), sum_outputs(reference[cut:], output[cut:])), 0.5
    )
    assert parts.degenerate == whole.degenerate
    assert_close(parts, whole)


@pytest.mark.slow
@given(ARRAYS)
@settings(deadline=None)
def test_sums_do_not_depend_on_the_size_of_blocks(reference: np.ndarray) -> None:
    output = reference[:, ::-1] * np.float32(0.9)
    whole = compare_outputs(reference, output)
    before = module._BLOCK_ELEMENTS
    try:
        module._BLOCK_ELEMENTS = 1
        assert_close(compare_outputs(reference, output), whole)
    finally:
        module._BLOCK_ELEMENTS = before


@given(ARRAYS, st.floats(0.01, 100))
def test_sqnr_and_cosine_do_not_depend_on_the_unit(reference: np.ndarray, unit: float) -> None:
    output = reference + np.float32(1)
    first, second = compare_outputs(reference, output), compare_outputs(reference * 1.0 * unit, output * 1.0 * unit)
    if first.degenerate is None and second.degenerate is None and math.isfinite(first.sqnr_db):
        assert second.sqnr_db == pytest.approx(first.sqnr_db, abs=1e-3)
        assert second.cosine == pytest.approx(first.cosine, abs=1e-6, nan_ok=True)


def test_a_fault_in_one_shard_spoils_the_whole_and_keeps_its_reason() -> None:
    good = sum_outputs(np.eye(2), np.eye(2))
    bad = sum_outputs(np.eye(2), np.full((2, 2), math.nan))
    for merged in (merge_sums(good, bad), merge_sums(bad, good), merge_sums(merge_sums(bad, good), good)):
        assert "non-finite output" in str(finish_sums(merged).degenerate)


def test_shards_of_other_shapes_are_not_added_up() -> None:
    merged = merge_sums(sum_outputs(np.eye(2), np.eye(2)), sum_outputs(np.eye(3), np.eye(3)))
    assert "shapes that change" in str(finish_sums(merged).degenerate)


def test_low_precision_outputs_are_summed_in_float64() -> None:
    reference = np.full((1, 40_000), 3.0, np.float16)
    reference[0, 0] = 1
    found = compare_outputs(reference, reference * np.float16(0.5))
    assert found.sqnr_db == pytest.approx(10 * math.log10(4), abs=1e-9)


@pytest.mark.slow
def test_gates_hold_when_assertions_are_switched_off() -> None:
    program = (
        "import math; from mbdeploy.quant.metrics import check, compare_outputs\n"
        "bad = compare_outputs([[1.0, 2.0]], [[math.nan, 2.0]])\n"
        "gate = check('sqnr_db', 'm', bad.sqnr_db, 0, '>=')\n"
        "raise SystemExit(0 if bad.degenerate and gate.passed is False else 1)"
    )
    assert subprocess.run([sys.executable, "-O", "-c", program], check=False).returncode == 0


def test_a_single_number_is_compared_and_no_constant() -> None:
    assert compare_outputs([[2.0]], [[2.0]]).degenerate is None
    assert compare_outputs([[0.0]], [[1.0]]).sqnr_db == -math.inf


def test_parts_that_are_constant_each_are_no_constant_together() -> None:
    low, high = np.full((2, 3), 1.0), np.full((2, 3), 2.0)
    mixed = np.array([[1.0, 2.0, 2.0]])
    for first, second in ((low, high), (high, low), (mixed, high), (high, mixed), (mixed, low), (low, mixed)):
        merged = finish_sums(merge_sums(sum_outputs(first, first), sum_outputs(second, second)))
        assert merged.degenerate is None and merged.sqnr_db == math.inf
    assert "every value is 1" in str(finish_sums(merge_sums(*[sum_outputs(low, low)] * 2)).degenerate)


@pytest.mark.parametrize("output", [[[1e154, 1.0]], [[1.0, 0.5]]])
def test_sums_that_overflow_only_together_are_not_believed(output: list[list[float]]) -> None:
    assert "overflow" in str(compare_outputs([[1.2e154, 0.0]], output).degenerate)


def test_a_cosine_lies_between_its_ends_though_roots_are_rounded() -> None:
    for seed in range(300):
        values = np.random.default_rng(seed).normal(size=(1, 7))
        assert compare_outputs(values, 3 * values).cosine <= 1
        assert compare_outputs(values, -3 * values).cosine >= -1


def test_what_does_not_exist_counts_nothing_and_says_why() -> None:
    for found in (refuse_metrics("lost"), compare_outputs([1.0], [1.0, 2.0])):
        assert (found.images, found.elements) == (0, 0)
        assert found.degenerate and math.isnan(found.max_abs)
        assert (found.top1_agreement, found.max_lsb) == (None, None)


def test_the_error_of_each_image_is_the_sum_of_its_squares() -> None:
    found = sum_errors(np.array([[1.0, 2.0], [3.0, 4.0]], np.float32), np.array([[1.0, 0.0], [2.0, 1.0]], np.float16))
    assert found.tolist() == [4.0, 10.0]


def assert_close(found: Metrics, expected: Metrics) -> None:
    for name in ("images", "elements", "max_abs", "sqnr_db", "cosine", "top1_agreement", "max_lsb"):
        value, wanted = getattr(found, name), getattr(expected, name)
        assert value == (wanted if wanted is None else pytest.approx(wanted, rel=1e-9, abs=1e-9, nan_ok=True))


def make_detections(*, turned: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in pixels and two scores at fifty places of three images, and the same where INT8 rounds to pixels."""
    draw = np.random.default_rng(0)
    reference = np.concatenate([draw.uniform(0, 320, (3, 4, 50)), draw.uniform(0, 0.4, (3, 2, 50))], axis=1)
    output = np.rint(reference)
    pair = (reference.transpose(0, 2, 1), output.transpose(0, 2, 1)) if turned else (reference, output)
    return pair[0].astype(np.float32), pair[1].astype(np.float32)


@pytest.mark.parametrize("turned", [False, True])
def test_scores_that_are_all_zero_beside_boxes_that_are_right_are_no_small_error(turned: bool) -> None:
    reference, output = make_detections(turned=turned)
    found = compare_outputs(reference, output)
    assert found.degenerate == "constant output: 2 of 6 attributes, which vary in the reference"
    assert math.isnan(found.sqnr_db)
    assert compare_outputs(reference, reference + 1).degenerate is None
    boxes = (slice(None), slice(None), slice(4)) if turned else (slice(None), slice(4))
    assert compare_outputs(reference[boxes], output[boxes]).sqnr_db > 50
    assert compare_outputs(reference[..., None], output[..., None]).degenerate is None  # a map, not detections


def test_an_attribute_that_hardly_varies_may_be_constant() -> None:
    reference, output = make_detections()
    reference[:, 5], output[:, 4:] = 0.9999, [[0.1], [1.0]]
    reference[0, 5, 0] = 1.0  # spans a ten-thousandth
    reference[0, 4, 0] = output[0, 4, 0] = 0.5
    assert compare_outputs(reference, output).degenerate is None
    reference[0, 5, 0] = 0.99
    assert compare_outputs(reference, output).degenerate is not None


def test_an_attribute_that_varies_within_one_shard_and_not_in_the_other_is_not_lost() -> None:
    reference, output = make_detections()
    output[0, 4:], output[1, 4:] = 0.5, 0.5
    output[1, 4:, 0] = 0.1
    one, other = (sum_outputs(reference[k : k + 1], output[k : k + 1]) for k in range(2))
    assert finish_sums(one).degenerate is not None
    assert finish_sums(merge_sums(one, other)).degenerate is None
    assert finish_sums(merge_sums(other, one)).degenerate is None


def test_an_attribute_that_is_nothing_in_both_is_not_lost() -> None:
    reference, output = make_detections()
    reference[:, 4:] = output[:, 4:] = 0
    assert compare_outputs(reference, output).degenerate is None


def test_an_attribute_counts_over_all_shards() -> None:
    reference, output = make_detections()
    output[:, 4:] = np.arange(3).reshape(3, 1, 1)
    sums = [sum_outputs(reference[k : k + 1], output[k : k + 1]) for k in range(3)]
    assert finish_sums(sums[0]).degenerate == "constant output: 2 of 6 attributes, which vary in the reference"
    assert finish_sums(merge_sums(sums[0], sums[1])).degenerate is None
    assert finish_sums(merge_sums(sums[1], sums[0])).degenerate is None
