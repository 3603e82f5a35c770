"""One cell of a verification, by hand: its rows, its gates, and when the gap to the exact run is a verdict."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.card import Budgets
from mbdeploy.model_file import Signature
from mbdeploy.results import Check, ModelRef, PlacedNode, Placement
from mbdeploy.stages.parity import GATES, Cell, compare_cell, list_checks, list_rows
from mbdeploy.stages.reference import Reference
from mbdeploy.stages.subject import Kind, Subject
from mbdeploy.targets import Ran

RNG = np.random.default_rng(0)
EXPECTED = RNG.normal(size=(40, 5))
NODE = PlacedNode(name="n", operator="Conv", provider="CPUExecutionProvider", type="float32")


def make_cell(
    executed: Any,
    exact: Any = None,
    *,
    kind: Kind = "int8",
    expected: Any = EXPECTED,
    borrowed: bool = False,
    **more: Any,
) -> Cell:
    """The cell of one output; ``exact`` is ``executed`` without it. ``more`` outputs come before this one."""
    before = more.get("before", ())
    subject = Subject(
        ref=ModelRef(name="m", path="m.onnx", sha256="0", size_bytes=1),
        path=Path("m.onnx"),
        signature=Signature(input="x", shape=(None, 1, 1, 1), outputs=("a", "y")),
        kind=kind,
        preprocess=None,
        labels=None,
        output_scales=(*[None] * len(before), 0.5),
        companions=(),
    )
    names = (*[f"o{k}" for k in range(len(before))], "y")
    placement = Placement(nodes={"CPUExecutionProvider": 1}, operators={"Conv": 1}, ran=(NODE,))
    ran, ideal = (
        Ran(outputs=(*before, np.asarray(one)), output_names=names, placement=placement, settings={"way": way})
        for one, way in ((executed, "executed"), (executed if exact is None else exact, "exact"))
    )
    reference = Reference(name="r", inputs=np.zeros((40, 1, 1, 1), np.float32), outputs=(*before, np.asarray(expected)))
    return compare_cell(subject, "cpu", len(before), ran, ideal, reference, borrowed=borrowed)


def judge(cell: Cell, **budgets: float) -> dict[str, Check]:
    return {one.name: one for one in list_checks(cell, Budgets(**budgets))}


def noise(share: float, seed: int = 1) -> np.ndarray[Any, Any]:
    """The expected outputs with an error of this share of their power, 20·log10(1/share) dB below it."""
    error = np.random.default_rng(seed).normal(size=EXPECTED.shape)
    scale = share * np.linalg.norm(EXPECTED) / np.linalg.norm(error)
    return EXPECTED + scale * error


def test_a_cell_compares_executed_exact_and_the_one_with_the_other() -> None:
    cell = make_cell(EXPECTED + 0.5, EXPECTED + 0.25)
    assert (cell.executed.max_abs, cell.exact.max_abs, cell.saturation.max_abs) == pytest.approx((0.5, 0.25, 0.25))
    assert (cell.executed.max_lsb, cell.exact.max_lsb, cell.saturation.max_lsb) == pytest.approx((1.0, 0.5, 0.5))
    signal = float(np.square(EXPECTED + 0.25).sum())  # executed against exact, not the other way round
    assert cell.saturation.sqnr_db == pytest.approx(10 * math.log10(signal / (EXPECTED.size * 0.25**2)))
    assert (cell.name, cell.output) == ("m on cpu", "y")


def test_one_of_several_outputs_is_named_and_has_its_own_arrays_and_scale() -> None:
    cell = make_cell(EXPECTED + 0.5, before=(np.zeros((40, 2)),))
    assert (cell.name, cell.output, cell.index) == ("m on cpu, output y", "y", 1)
    assert (cell.executed.max_abs, cell.executed.max_lsb) == pytest.approx((0.5, 1.0))


def test_rows_are_executed_exact_and_for_int8_saturation_with_the_nodes_once() -> None:
    rows = list_rows(make_cell(EXPECTED + 0.5, EXPECTED + 0.25))
    assert [(row.mode, row.against, row.session["way"]) for row in rows] == [
        ("executed", "reference", "executed"),
        ("exact", "reference", "exact"),
        ("executed", "exact", "executed"),
    ]
    assert [row.placement.ran for row in rows] == [(NODE,), (), ()]
    assert [row.placement.nodes for row in rows] == [{"CPUExecutionProvider": 1}] * 3
    assert [row.metrics.max_abs for row in rows] == pytest.approx([0.5, 0.25, 0.25])
    assert len(list_rows(make_cell(EXPECTED, kind="fp32"))) == 2
    borrowed = list_rows(make_cell(EXPECTED, borrowed=True))
    assert [(row.mode, row.against) for row in borrowed] == [("executed", "reference"), ("executed", "exact")]


@pytest.mark.parametrize("kind", GATES)
def test_a_kind_has_its_gates_at_its_budgets_and_int8_the_gap_too(kind: Kind) -> None:
    budgets = Budgets(
        export_max_abs=1,
        simplify_max_abs=2,
        fp16_sqnr_db=3,
        int8_sqnr_db=4,
        int8_top1_agreement=0.5,
        int8_exact_gap_db=6,
    )
    wanted = [(name, comparison, getattr(budgets, budget)) for name, comparison, budget in GATES[kind]]
    wanted += [("exact_gap_db", "<=", 6)] if kind == "int8" else []
    checks = list_checks(make_cell(EXPECTED, kind=kind), budgets)
    assert [(one.name, one.comparison, one.bound) for one in checks] == wanted
    assert all(one.passed is True and not one.note and one.subject == "m on cpu" for one in checks)


def test_agreement_is_asked_where_there_are_classes_or_a_budget_on_them() -> None:
    flat = EXPECTED.reshape(-1)
    assert "top1_agreement" not in judge(make_cell(flat, expected=flat))
    assert judge(make_cell(flat, expected=flat), int8_top1_agreement=0.1)["top1_agreement"].passed is False
    broken = np.full_like(flat, math.nan)
    assert judge(make_cell(broken, expected=flat))["top1_agreement"].passed is False
    assert judge(make_cell(EXPECTED))["top1_agreement"].passed is True


def test_what_is_degenerate_fails_every_gate_and_says_why() -> None:
    for bad in (np.full_like(EXPECTED, math.nan), np.zeros_like(EXPECTED), EXPECTED[:, :2]):
        checks = list_checks(make_cell(bad, EXPECTED), Budgets(int8_sqnr_db=-1e9, int8_exact_gap_db=1e9))
        assert len(checks) == 3
        assert all(one.passed is False and one.note for one in checks)
    gap = judge(make_cell(EXPECTED, np.full_like(EXPECTED, math.nan)))["exact_gap_db"]  # the exact run alone
    assert gap.passed is False and math.isnan(gap.value)


def test_outputs_equal_to_the_reference_both_ways_have_no_gap() -> None:
    gap = judge(make_cell(EXPECTED, EXPECTED), int8_exact_gap_db=0.0)["exact_gap_db"]
    assert (gap.value, gap.passed, gap.note) == (0.0, True, "")


@pytest.mark.parametrize(
    ("executed", "exact", "gap_db", "passed"),
    [
        (noise(0.1), noise(0.1), 0.0, True),
        (noise(0.1), noise(0.05), 6.0206, False),  # twice the error: never rounding
        (noise(0.1, seed=2), noise(0.09), 0.9151, None),  # as rounding scatters
        (EXPECTED + 1.12 * (noise(0.1) - EXPECTED), noise(0.1), 0.9844, False),  # on every image
        (noise(0.05), noise(0.1), -6.0206, True),
        (noise(0.1), EXPECTED, math.inf, False),
        (EXPECTED, noise(0.1), -math.inf, True),
    ],
)
def test_a_gap_fails_where_it_is_no_rounding(executed: Any, exact: Any, gap_db: float, passed: bool | None) -> None:
    gap = judge(make_cell(executed, exact))["exact_gap_db"]
    assert gap.value == pytest.approx(gap_db, abs=1e-3)
    assert (gap.passed, gap.bound, gap.comparison) == (passed, 0.3, "<=")
    assert gap.note == (
        "40 images cannot tell it from rounding; give more with --num-samples" if passed is None else ""
    )


def test_a_gap_of_three_db_and_more_is_never_rounding_however_few_the_images() -> None:
    for gap_db, passed in ((2.99, None), (3.01, False)):
        executed, exact = EXPECTED.copy(), EXPECTED.copy()
        executed[0] += 0.1 * 10 ** (gap_db / 20)
        exact[1] += 0.1  # the one misses this image, the other that one
        gap = judge(make_cell(executed, exact))["exact_gap_db"]
        assert gap.value == pytest.approx(gap_db)
        assert gap.passed is passed


def test_exact_outputs_that_were_computed_elsewhere_are_said() -> None:
    gap = judge(make_cell(EXPECTED, borrowed=True))["exact_gap_db"]
    assert gap.note == "exact on this machine's CPU"
    unsure = judge(make_cell(noise(0.1, seed=2), noise(0.09), borrowed=True))["exact_gap_db"]
    assert unsure.note.startswith("exact on this machine's CPU; 40 images cannot tell")
