"""A search over mixed precision as tables: the goals, the mixes that were measured, and what each move does."""

from __future__ import annotations

from collections.abc import Iterator

from mbdeploy.derive import Verdict
from mbdeploy.mixing.front import rank_mixes
from mbdeploy.mixing.report import Mix, MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.stages.figures import tabulate_verdicts
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.stages.wording import name_interval, name_verdict

_MOST_ROWS = 10


def tabulate_search(report: MixReport) -> list[Table]:
    """The outcome and its verdict, the mixes, and the moves that matter most."""
    return [*tabulate_outcome(report, judge_search(report)), tabulate_effects(report, most=_MOST_ROWS)]


def tabulate_outcome(report: MixReport, verdict: Verdict) -> list[Table]:
    """What was asked and chosen, the verdict, and the mixes, those on the Pareto front marked."""
    facts = Table(title="INT8 within goals", columns=("", ""), rows=tuple(_list_facts(report)), left=(0, 1))
    return [facts, *tabulate_verdicts([verdict], "Ship INT8 within these goals?"), *tabulate_mixes(report)]


def tabulate_mixes(report: MixReport, *, intervals: bool = False) -> list[Table]:
    """The mixes that were made in full, and all that were measured by reward; ``intervals`` are those of drops."""
    steps = {mix.name: step for step, mix in enumerate(report.mixes)}
    columns = ("mix", "of FP32's time", "SQNR dB", "drop", "reward", "size", "front")
    made = tuple(_describe_mix(mix, mix.name, mix.name == report.chosen, intervals) for mix in report.made)
    mixes = tuple(
        _describe_mix(mix, f"{steps[mix.name]}: {mix.name}", mix.name == report.chosen, intervals)
        for mix in rank_mixes(report.mixes)
    )
    title = f"Mixes on {report.provider}, each with one more move in float, before weights are fitted: estimates"
    return [
        *([Table(title="Quantized in full, timed in several processes", columns=columns, rows=made)] if made else []),
        Table(title=title, columns=columns, rows=mixes, notes=_explain_mixes(report)),
    ]


def tabulate_effects(report: MixReport, *, most: int | None = None) -> Table:
    """What moves bring, the most accuracy first; only those that bring or save most if not all of them are shown."""
    shown = sorted(report.effects, key=lambda effect: -effect.spared_db)
    notes = ["time: over all in INT8, conversions included; dB: it in float and the rest in INT8, and the reverse"]
    if most is not None:
        by_time = sorted((effect for effect in shown if effect.ratio.high < 1), key=lambda effect: effect.ratio.value)
        first = {id(effect): effect for effect in (*by_time[: most // 2], *shown)}
        shown = list(first.values())[:most]
        notes.append(f"of {len(report.effects)} moves those that save most time or bring most accuracy")
    return Table(
        title="What a move does on its own: estimates, of one process",
        columns=("in float", "time", "dB, it in float", "dB, it in INT8"),
        rows=tuple(
            (effect.move.name, name_interval(effect.ratio), f"{effect.spared_db:.2f}", f"{effect.alone_db:.2f}")
            for effect in shown
        ),
        notes=tuple(notes),
    )


def list_goals(report: MixReport) -> list[str]:
    """The goals in words."""
    goals = report.goals
    said = []
    if goals.min_sqnr is not None:
        said.append(f"at least {goals.min_sqnr:g} dB")
    if goals.max_drop is not None:
        said.append(f"at most {goals.max_drop:g} points of top-1 lost")
    if goals.target_ratio is not None:
        said.append(f"at most {goals.target_ratio:g} of optimised FP32's time")
    return said


def _list_facts(report: MixReport) -> Iterator[tuple[str, str]]:
    yield "goals", ", ".join(list_goals(report))
    images = f"{report.images} of {report.data}" + ("" if report.held_out else ", which calibrated it: optimistic")
    yield "images", images + (", labelled" if report.labelled else ", without labels")
    if report.final is None:
        yield "result", "no file: ship the float one"
        yield "why", report.reason
        return
    final = report.final
    yield "chosen", f"{report.chosen}: {report.reason}"
    yield "in float", ", ".join(final.keep_float) or "nothing"
    yield "written, measured again", f"{name_interval(final.ratio)} of FP32's time, {final.sqnr_db:.2f} dB"
    for control in report.checks[:1]:
        said = f"{name_verdict(control.passed)}: FP32 differs from itself by {control.value:.1%}"
        yield control.name, f"{said}; {control.note}" if control.note else said


def _describe_mix(mix: Mix, name: str, chosen: bool, intervals: bool) -> tuple[str, ...]:
    front = "*" if mix.on_front else ""
    drop = f" [{mix.drop.low:.2f}, {mix.drop.high:.2f}]" if intervals else ""
    return (
        f"{name}{' (chosen)' if chosen else ''}",
        name_interval(mix.ratio),
        f"{mix.sqnr_db:.2f}",
        f"{mix.drop.value:.2f}{drop}",
        f"{mix.reward:.4f}",
        format_bytes(mix.size_bytes),
        front,
    )


def _explain_mixes(report: MixReport) -> tuple[str, ...]:
    drop = (
        "drop: points of top-1 lost on these images"
        if report.labelled
        else "drop: share of images whose first class is another, in points; no loss of top-1 can be larger"
    )
    target = "the target" if report.goals.target_ratio is not None else "that of all in INT8"
    order = f"sorted by reward: (1 - drop) (time / {target})^-0.07; a mix has the moves up to its number in float"
    return drop, order
