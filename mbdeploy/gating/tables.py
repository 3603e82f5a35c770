"""A check as tables, for the terminal and for Markdown: what needs attention first, then card by card."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.gating.holm import say_p_values
from mbdeploy.gating.report import CardResult, CheckReport, Gate, describe_divergence, find_divergence
from mbdeploy.stages.figures import tabulate_checks
from mbdeploy.stages.tables import Table, render_tables

_ENDS = {0: "pass", 1: "FAIL", 2: "could not run", 3: "not available", 4: "inconclusive", 5: "bug"}
_LEVELS = ("error", "warning", "note")


def tabulate_report(report: CheckReport) -> list[Table]:
    """One row a card, then for each card what changed, the gates, and findings."""
    rows = tuple(
        (result.card, *_count_gates(result.gates), _count_lint(result), f"{result.seconds:.0f} s", _name_end(result))
        for result in report.cards
    )
    columns = ("card", "gates held", "not", "findings", "took", "verdict")
    notes = (f"Compared with {report.baseline}, run now.",) if report.baseline else ()
    summary = Table(title=f"Check: {name_verdict(report)}", columns=columns, rows=rows, notes=notes, left=(0, 3))
    return [summary, *(table for result in report.cards for table in tabulate_card(result))]


def tabulate_card(result: CardResult) -> list[Table]:
    """One card: what could not be judged, what changed, its gates, and its findings."""
    return [
        *_tabulate_refusals(result),
        *_tabulate_changes(result),
        *tabulate_gates(result),
        *_tabulate_lint(result),
    ]


def tabulate_gates(result: CardResult) -> list[Table]:
    """Every gate; notes say p-values, where failed ones begin to differ, and what was not judged."""
    tables = tabulate_checks([gate.check for gate in result.gates])
    notes = [*(note for gate in result.gates for note in _describe(result, gate)), *result.notes]
    return [
        Table(
            title=f"Gates of {result.card}",
            columns=table.columns,
            rows=table.rows,
            notes=(*table.notes, *dict.fromkeys(notes)),
            left=table.left,
        )
        for table in tables
    ]


def render_markdown(report: CheckReport) -> str:
    """The report for a job's summary or a comment: cards that hold in every way are folded away."""
    summary, *_ = tabulate_report(report)
    parts = [render_tables([summary], format="md")]
    for result in report.cards:
        text = render_tables(tabulate_card(result), format="md")
        if result.exit_code == 0 and not result.changes:
            text = f"<details><summary>{_escape(result.card)}</summary>\n\n{text}\n\n</details>"
        parts.append(text)
    return "\n\n".join(parts) + "\n"


def name_verdict(report: CheckReport) -> str:
    """The whole check in one or two words."""
    return _ENDS[report.exit_code]


def _escape(name: str) -> str:
    import html

    return html.escape(name)


def _name_end(result: CardResult) -> str:
    return _ENDS[result.exit_code]


def _count_gates(gates: Sequence[Gate]) -> tuple[str, str]:
    held = sum(gate.check.passed is True for gate in gates)
    return str(held), str(len(gates) - held)


def _count_lint(result: CardResult) -> str:
    counts = {level: sum(item.level == level for item in result.lint) for level in _LEVELS}
    return ", ".join(f"{count} {level}{'s' * (count > 1)}" for level, count in counts.items() if count) or "none"


def _tabulate_refusals(result: CardResult) -> list[Table]:
    if not result.refusals:
        return []
    rows = tuple((one.provider or "all", one.text) for one in result.refusals)
    return [Table(title=f"{result.card}: not judged", columns=("provider", "why"), rows=rows, left=(0, 1))]


def _tabulate_changes(result: CardResult) -> list[Table]:
    if not result.changes:
        return []
    rows = tuple((one.provider, one.figure, one.before, one.now) for one in result.changes)
    notes = tuple(f"{one.figure} on {one.provider}: {one.note}" for one in result.changes if one.note)
    columns = ("on", "figure of int8", "baseline", "now")
    title = f"{result.card}: what changed"
    return [Table(title=title, columns=columns, rows=rows, notes=notes, left=(0, 1))]


def _tabulate_lint(result: CardResult) -> list[Table]:
    if not result.lint:
        return []
    rows = tuple((item.rule, item.level, str(len(item.places)), item.summary) for item in result.lint)
    note = "`mbdeploy explain ID` says what each one means."
    columns = ("id", "level", "places", "finding")
    return [Table(title=f"{result.card}: findings", columns=columns, rows=rows, notes=(note,), left=(0, 1, 3))]


def _describe(result: CardResult, gate: Gate) -> list[str]:
    p_values = say_p_values(gate) if gate.check.passed is not True else ""
    said = [f"{gate.check.name}, {gate.check.subject}: {p_values}"] if p_values else []
    found = find_divergence(result, gate)
    return [*said, f"{found.subject}: {describe_divergence(found)}"] if found else said
