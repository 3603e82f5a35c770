"""The parity matrix: one cell a file and a way of running it, with the outputs behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import msgspec

from mbdeploy.derive import join_verdicts
from mbdeploy.results import Check, Metrics, is_about
from mbdeploy.stages.reporting.facts import Report
from mbdeploy.stages.tables import Table
from mbdeploy.stages.wording import NOT_AVAILABLE, name_decibels, name_number, name_verdict

#: Edges in dB between the colours; the first is for what is below all of them.
EDGES_DB = (10.0, 15.0, 20.0, 25.0, 30.0, 40.0)
_Output = tuple[str, Metrics]
_Outputs = dict[tuple[str, str], list[_Output]]
_COLUMNS = ("output", "SQNR dB", "top-1", "max abs", "cosine", "LSB", "images")


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """The worst output of one file in one column. ``step`` is its colour, None where no number may be believed."""

    text: str
    step: int | None
    verdict: str
    outputs: Table


class Heat(msgspec.Struct, frozen=True, kw_only=True):
    """One matrix: what it is of, its columns, and a row of cells for each file."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    note: str


def arrange_parity(report: Report) -> list[Heat]:
    """Files against providers as executed and exact, then files against the ways of ``verify --matrix``, if saved."""
    gates = {fact: _judge(report.checks, *fact) for fact in _list_pairs(report)}
    found: _Outputs = {}
    beside: _Outputs = {}
    for fact in report.parity:
        for column, metrics in ((fact.provider, fact.executed), (f"{fact.provider}, exact", fact.exact)):
            if metrics is not None:
                found.setdefault((fact.model, column), []).append((fact.output, metrics))
        if fact.saturation is not None:
            beside.setdefault((fact.model, fact.provider), []).append(
                (f"{fact.output}, against exact", fact.saturation)
            )
    ways: _Outputs = {}
    judged: dict[tuple[str, str], str] = {}
    for row in report.matrix:
        key = (row.model, f"{row.provider}, {row.way}")
        ways.setdefault(key, []).append((row.output, row.reference))
        worst = min((name_verdict(row.passed), judged.get(key, "pass")), key=("FAIL", "inconclusive", "pass").index)
        judged[key] = worst
    note = "Each cell: SQNR in dB of the worst output against the reference; open it for all outputs."
    exact = " exact: Q/DQ in float. against exact: what saturation and the last bit of rounding leave between the two."
    heats = [_arrange("Parity on every provider", found, beside, gates, note + exact)] if found else []
    return heats + ([_arrange("Every way to open a session", ways, {}, judged, note)] if ways else [])


def place_color(metrics: Metrics) -> int | None:
    """The colour of an SQNR, from 0 (worst) to ``len(EDGES_DB)``; None for what is degenerate."""
    if metrics.degenerate is not None or math.isnan(metrics.sqnr_db):
        return None
    return sum(metrics.sqnr_db >= edge for edge in EDGES_DB)


def list_colors() -> list[str]:
    """What each colour means, the worst first."""
    between = [f"{low:.0f} to {high:.0f}" for low, high in pairwise(EDGES_DB)]
    return [f"below {EDGES_DB[0]:.0f} dB", *between, f"{EDGES_DB[-1]:.0f} dB and more"]


def _arrange(
    title: str,
    found: _Outputs,
    beside: _Outputs,
    verdicts: dict[tuple[str, str], str],
    note: str,
) -> Heat:
    models, columns = (tuple(dict.fromkeys(key[axis] for key in found)) for axis in (0, 1))
    rows = tuple(
        (
            model,
            tuple(
                _make_cell(
                    f"{model}: {column}",
                    found[model, column],
                    beside.get((model, column), []),
                    verdicts.get((model, column), ""),
                )
                if (model, column) in found
                else None
                for column in columns
            ),
        )
        for model in models
    )
    return Heat(title=title, columns=columns, rows=rows, note=note)


def _make_cell(title: str, outputs: Sequence[_Output], beside: Sequence[_Output], verdict: str) -> Cell:
    steps = [(place_color(metrics), metrics) for _, metrics in outputs]
    bad = next((metrics for step, metrics in steps if step is None), None)
    worst = bad or min((metrics for _, metrics in steps), key=lambda metrics: metrics.sqnr_db)
    reasons = tuple(f"{name}: {metrics.degenerate}" for name, metrics in outputs if metrics.degenerate)
    rows = tuple((name, *_list_figures(metrics)) for name, metrics in (*outputs, *beside))
    return Cell(
        text="degenerate" if bad else name_decibels(worst.sqnr_db),
        step=place_color(worst),
        verdict=verdict,
        outputs=Table(title=title, columns=_COLUMNS, rows=rows, notes=reasons),
    )


def _list_figures(metrics: Metrics) -> tuple[str, ...]:
    share = metrics.top1_agreement
    return (
        name_decibels(metrics.sqnr_db),
        NOT_AVAILABLE if share is None else f"{100 * share:.1f} %",
        name_number(metrics.max_abs, 3),
        name_number(metrics.cosine, 5),
        name_number(metrics.max_lsb, 3),
        str(metrics.images),
    )


def _list_pairs(report: Report) -> Iterable[tuple[str, str]]:
    return dict.fromkeys((fact.model, fact.provider) for fact in report.parity)


def _judge(checks: Sequence[Check], model: str, provider: str) -> str:
    verdicts = [check.passed for check in checks if is_about(check, model, provider)]
    return name_verdict(join_verdicts(verdicts)) if verdicts else ""
