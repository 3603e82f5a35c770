"""A search over mixed precision as tables: the goals, the mixes that were measured, and what each move does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mbdeploy.mixing.report import Effect, Mix, MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.stages.figures import tabulate_verdicts
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.stages.wording import name_interval, name_verdict

_MOST_ROWS = 10


def tabulate_search(report: MixReport) -> list[Table]:
    """The outcome and its verdict, the mixes (those on the Pareto front marked), and the moves that matter most."""
    facts = Table(title="INT8 within goals", columns=("", ""), rows=tuple(_list_facts(report)), left=(0, 1))
    mixes = Table(
        title=f"Mixes on {report.provider}, each with one more move in float, before weights are fitted: estimates",
        columns=("mix", "of FP32's time", "SQNR dB", "drop", "size", "front"),
        rows=tuple(_describe_mix(mix, mix.name == report.chosen) for mix in report.mixes),
        notes=_explain_mixes(report),
    )
    made = Table(
        title="Quantized in full, timed in several processes",
        columns=mixes.columns,
        rows=tuple(_describe_mix(mix, mix.name == report.chosen) for mix in report.made),
    )
    verdict = tabulate_verdicts([judge_search(report)])
    return [facts, *verdict, *([made] if report.made else []), mixes, _tabulate_effects(report.effects)]


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
    processes = len(set(report.timed[final.name].control.process))
    control = report.checks[0]
    said = f"{name_verdict(control.passed)} ({control.value:.1%} off 1; {processes} processes) {control.note}"
    yield control.name, said.strip()


def _describe_mix(mix: Mix, chosen: bool) -> tuple[str, ...]:
    front = "*" if mix.on_front else ""
    return (
        f"{mix.name}{' (chosen)' if chosen else ''}",
        name_interval(mix.ratio),
        f"{mix.sqnr_db:.2f}",
        f"{mix.drop.value:.2f}",
        format_bytes(mix.size_bytes),
        front,
    )


def _explain_mixes(report: MixReport) -> tuple[str, ...]:
    if report.labelled:
        return ("drop: points of top-1 lost on these images",)
    return ("drop: share of images whose first class is another, in points; no loss of top-1 can be larger",)


def _tabulate_effects(effects: Sequence[Effect]) -> Table:
    """The moves that bring most accuracy, and those that save most time."""
    by_gain = sorted(effects, key=lambda effect: -effect.spared_db)
    by_time = sorted((effect for effect in effects if effect.ratio.high < 1), key=lambda effect: effect.ratio.value)
    shown = list({id(effect): effect for effect in (*by_time[: _MOST_ROWS // 2], *by_gain[:_MOST_ROWS])}.values())
    return Table(
        title="What a move does on its own",
        columns=("in float", "time", "dB, it in float", "dB, it in INT8"),
        rows=tuple(
            (effect.move.name, name_interval(effect.ratio), f"{effect.spared_db:.2f}", f"{effect.alone_db:.2f}")
            for effect in shown[:_MOST_ROWS]
        ),
        notes=(
            "time: over all in INT8, conversions included, by one process; dB: it in float, the rest in INT8; the reverse",
            f"of {len(effects)} moves those that save most time or bring most accuracy",
        ),
    )
