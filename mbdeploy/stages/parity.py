"""One cell of a verification: an output on a provider, compared as executed and exact, its rows and its gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from mbdeploy.card import Budgets
from mbdeploy.estimate import estimate_ratio_of_sums
from mbdeploy.quant.metrics import check, compare_outputs, sum_errors
from mbdeploy.results import Check, Metrics, Mode, ParityRow, name_subject
from mbdeploy.stages.reference import Reference
from mbdeploy.stages.subject import Kind, Subject
from mbdeploy.targets import Ran

#: Kind of variant -> its gates over the executed outputs: (metric, comparison, the budget that bounds it).
GATES: Mapping[Kind, tuple[tuple[str, Literal[">=", "<="], str], ...]] = {
    "fp32": (("max_abs", "<=", "export_max_abs"),),
    "simplified": (("max_abs", "<=", "simplify_max_abs"),),
    "fp16": (("sqnr_db", ">=", "fp16_sqnr_db"),),
    "int8": (("sqnr_db", ">=", "int8_sqnr_db"), ("top1_agreement", ">=", "int8_top1_agreement")),
}

#: A gap between executed and exact that no rounding makes, however few the images: twice the error.
_NEVER_ROUNDING_DB = 3.0


class Cell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One output of one subject on one provider: as executed, exact, and the one against the other.

    ``expected`` are the reference's outputs, ``index`` is the place of this one among the model's.
    ``borrowed`` says that the exact outputs were computed on this machine's CPU and not by the provider.
    """

    subject: Subject
    provider: str
    output: str
    name: str
    index: int
    expected: NDArray[Any]
    ran: Ran
    ideal: Ran
    executed: Metrics
    exact: Metrics
    saturation: Metrics
    borrowed: bool


def compare_cell(
    subject: Subject, provider: str, index: int, ran: Ran, ideal: Ran, against: Reference, *, borrowed: bool
) -> Cell:
    """Compare output ``index`` of ``ran`` with the reference and with ``ideal``, the exact run of the same file."""
    expected, executed, exact = against.outputs[index], ran.outputs[index], ideal.outputs[index]
    scale = subject.output_scales[index]
    output = ran.output_names[index]
    return Cell(
        subject=subject,
        provider=provider,
        output=output,
        name=name_subject(subject.ref.name, provider, output if len(against.outputs) > 1 else ""),
        index=index,
        expected=expected,
        ran=ran,
        ideal=ideal,
        executed=compare_outputs(expected, executed, scale),
        exact=compare_outputs(expected, exact, scale),
        saturation=compare_outputs(exact, executed, scale),
        borrowed=borrowed,
    )


def _judge_gap(cell: Cell, bound: float) -> Check:
    """The gate on saturation: how many dB the executed outputs lie below the exact ones.

    Rules: 1. two infinite SQNRs (outputs equal to the reference) have no difference, not NaN. 2. Both round, in places
    of their own, so that few images scatter the gap either way: beyond the bound it is inconclusive (None), unless
    the ratio of their errors, image by image, is above 1 with 99 % confidence. 3. Twice the error is never rounding.
    """
    above, below = cell.exact.sqnr_db, cell.executed.sqnr_db
    gate = check("exact_gap_db", cell.name, 0.0 if above == below else above - below, bound, "<=")
    notes = ["exact on this machine's CPU"] if cell.borrowed else []
    if not gate.passed and gate.value < _NEVER_ROUNDING_DB:  # so it is a number, and the outputs can be compared
        executed, exact = (sum_errors(cell.expected, ran.outputs[cell.index]) for ran in (cell.ran, cell.ideal))
        if estimate_ratio_of_sums(executed, exact).low <= 1:
            gate = msgspec.structs.replace(gate, passed=None)
            notes.append(f"{len(exact)} images cannot tell it from rounding; give more with --num-samples")
    return msgspec.structs.replace(gate, note="; ".join(notes))


def list_rows(cell: Cell) -> list[ParityRow]:
    """The rows of a cell: executed, exact if the provider ran it, and for INT8 the one against the other.

    The list of nodes is kept in the first of them only.
    """
    rows = [_make_row(cell, "executed", cell.executed)]
    if not cell.borrowed:
        rows.append(_make_row(cell, "exact", cell.exact))
    if cell.subject.kind == "int8":
        rows.append(msgspec.structs.replace(_make_row(cell, "executed", cell.saturation), against="exact"))
    return rows


def _make_row(cell: Cell, mode: Mode, metrics: Metrics) -> ParityRow:
    ran = cell.ran if mode == "executed" else cell.ideal
    placement = ran.placement
    if metrics is not cell.executed:
        placement = msgspec.structs.replace(placement, ran=())
    return ParityRow(
        model=cell.subject.ref,
        provider=cell.provider,
        mode=mode,
        output=cell.output,
        metrics=metrics,
        placement=placement,
        session=ran.settings,
    )


def list_checks(cell: Cell, budgets: Budgets) -> list[Check]:
    """The gates of the subject's kind; of an output without classes no agreement is asked."""
    checks = []
    for metric, comparison, budget in GATES[cell.subject.kind]:
        value, bound = getattr(cell.executed, metric), getattr(budgets, budget)
        if value is not None or cell.executed.degenerate or not bound <= 0:
            checks.append(check(metric, cell.name, value, bound, comparison))
    if cell.subject.kind == "int8":
        checks.append(_judge_gap(cell, budgets.int8_exact_gap_db))
    reason = cell.executed.degenerate
    return [msgspec.structs.replace(gate, note=reason) for gate in checks] if reason else checks
