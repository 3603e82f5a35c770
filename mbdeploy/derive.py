"""What reports and gates say about saved results: every derived number, from raw samples alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from mbdeploy.estimate import (
    Interval,
    compute_mcnemar,
    estimate_paired_difference,
    estimate_percentile,
    estimate_proportion,
    estimate_ratio,
    required_samples,
)
from mbdeploy.results import BenchRun, Check, EvalReport, Evaluated, Series

Clock = Literal["wall", "cpu"]
Answer = Literal["ship", "don't ship", "inconclusive"]
#: An answer, and what speaks for it.
Finding = tuple[Answer, str]
#: The first of these that anything speaks for is the verdict.
ANSWERS: tuple[Answer, ...] = ("don't ship", "inconclusive", "ship")


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """One series in figures: percentiles in ns (None where the samples cannot carry them), images a second."""

    n: int
    p50_ns: float | None
    p90_ns: float | None
    p95_ns: float | None
    p99_ns: float | None
    images_per_s: float | None


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One model's predictions against another's over the same images.

    ``changed`` images got another first class. ``gained`` were right only in the second model, ``lost``
    only in the first; ``difference`` is the second's accuracy minus the first's, ``p_value`` McNemar's.
    """

    n: int
    changed: int
    gained: int
    lost: int
    difference: Interval
    p_value: float


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What to do with a file on a provider, and why: the reasons that decided, the worst first."""

    model: str
    provider: str
    answer: Answer
    reasons: tuple[str, ...]


def choose_clock(run: BenchRun) -> Clock:
    """CPU time for one thread, which neighbours disturb least; wall clock where threads or a device share the work."""
    on_host = all(series.session.get("device", "cpu") == "cpu" for series in run.series)
    return "cpu" if run.threads == 1 and on_host else "wall"


def read_times(series: Series, clock: Clock | Literal["copy"]) -> tuple[int, ...]:
    """The series' samples by that clock, in ns; "copy" are the copies to a device and back, by the wall clock."""
    return {"cpu": series.cpu_ns, "wall": series.wall_ns, "copy": series.copy_ns}[clock]


def summarise_latency(series: Series, batch_size: int, clock: Clock | Literal["copy"] = "wall") -> Latency:
    """Median, p90, p95 and p99 of one series, and its throughput at the median."""
    times = read_times(series, clock)
    p50, p90, p95, p99 = (estimate_percentile(times, percentile) for percentile in (50, 90, 95, 99))
    return Latency(
        n=len(times),
        p50_ns=p50,
        p90_ns=p90,
        p95_ns=p95,
        p99_ns=p99,
        images_per_s=1e9 * batch_size / p50 if p50 else None,
    )


def compare_series(run: BenchRun, index: int, clock: Clock | None = None) -> Interval:
    """Times of series ``index`` over the baseline's, pair by pair, process by process; index -1 is the A/A control."""
    clock = clock or choose_clock(run)
    candidate = run.control if index == -1 else run.series[index]
    first = run.series[0]
    return estimate_ratio(
        read_times(first, clock), read_times(candidate, clock), processes=first.process or None, seed=run.seed
    )


def estimate_time(run: BenchRun, index: int, clock: Clock | None = None, *, unit_ns: float = 1e6) -> Interval:
    """The typical time of series ``index`` in units of ``unit_ns`` (ms): ``compare_series`` against one unit."""
    series = run.series[index]
    times = read_times(series, clock or choose_clock(run))
    return estimate_ratio([unit_ns] * len(times), times, processes=series.process or None, seed=run.seed)


def is_decided(run: BenchRun) -> bool:
    """Whether every ratio of the run, its A/A control too, has an interval that a gate may believe."""
    return not any(_find_doubt(compare_series(run, index), run.tolerance) for index in (-1, *range(1, len(run.series))))


def judge_run(
    run: BenchRun, *, budgets: dict[str, float] | None = None, clock: Clock | None = None
) -> tuple[Check, ...]:
    """The A/A control, then one gate a candidate against the baseline.

    Rules: 1. the control compares the baseline with itself; unless it passes, every gate of the run is
    inconclusive. 2. A candidate may take ``budgets[name]`` times as long as the baseline (1 without).
    """
    clock = clock or choose_clock(run)
    subject = f"{run.series[0].model.name} on {run.provider}"
    control = judge_control(compare_series(run, -1, clock), run.tolerance, subject)
    checks = [control]
    for index, series in enumerate(run.series[1:], start=1):
        name, budget = f"{clock} time ratio", (budgets or {}).get(series.model.name, 1.0)
        gate = judge_ratio(
            compare_series(run, index, clock), run.tolerance, budget, name, f"{series.model.name} on {run.provider}"
        )
        if control.passed is not True:
            gate = msgspec.structs.replace(gate, passed=None, note="the A/A control of this run did not pass")
        checks.append(gate)
    return tuple(checks)


def judge_ratio(ratio: Interval, tolerance: float, budget: float, name: str, subject: str) -> Check:
    """A gate over a ratio of times, which should be at most ``budget``.

    Rules: 1. inconclusive (None) with too few pairs for a median, with an interval wider than the tolerance, relative
    to the ratio, or where one of them is no number. 2. It fails only if the ratio is beyond ``budget`` by more than the
    tolerance, and the interval excludes ``budget``. 3. Else it passes. ``bound`` is the largest that passes.
    """
    bound = budget * (1 + tolerance)
    note, passed = _find_doubt(ratio, tolerance), None
    if not bound > 0:
        note = f"a budget of {budget}, which no time can be held to"
    if not note:
        passed = not (ratio.value > bound and ratio.low > budget)
    return Check(name=name, subject=subject, value=ratio.value, bound=bound, comparison="<=", passed=passed, note=note)


def judge_control(ratio: Interval, tolerance: float, subject: str) -> Check:
    """The A/A control: the same model twice must not differ by more than the tolerance, either way."""
    distance = abs(ratio.value - 1)
    note = _find_doubt(ratio, tolerance)
    passed = None if note else distance <= tolerance
    if passed is False:
        note = "the same model differs from itself: this machine is too unsteady for a verdict"
    return Check(
        name="A/A control", subject=subject, value=distance, bound=tolerance, comparison="<=", passed=passed, note=note
    )


def judge_gain(ratio: Interval, clock: Clock, control: Check | None, gate: Check | None) -> Finding:
    """Whether INT8 that takes ``ratio`` of optimised FP32's time is a gain, from a run's control and gate over it.

    Rules: 1. "inconclusive" unless the A/A control passed, or where the gate is (an interval that is too wide). 2. Else
    "ship" if the interval lies below 1, "don't ship" if it lies above; one that holds 1 shows neither.
    """
    said = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of optimised FP32's {clock} time"
    if control is None or control.passed is not True:
        return "inconclusive", f"{said}, but the A/A control did not pass"
    if gate is not None and gate.passed is None:
        return "inconclusive", f"{said}: {gate.note}"
    if ratio.high < 1:
        return "ship", said
    if ratio.low >= 1:
        return "don't ship", f"no gain: {said}; the float file is as fast or faster"
    return "inconclusive", f"no gain shown: {said}"


def settle_verdict(model: str, provider: str, findings: Iterable[Finding]) -> Verdict:
    """The worst of at least one finding, and all of them as reasons, the worst first."""
    ordered = sorted(findings, key=lambda finding: ANSWERS.index(finding[0]))
    reasons = tuple(reason for _, reason in ordered)
    return Verdict(model=model, provider=provider, answer=ordered[0][0], reasons=reasons)


def join_verdicts(verdicts: Iterable[bool | None]) -> bool | None:
    """The verdict of several gates together: failed if one has failed, else inconclusive if one is."""
    found = set(verdicts)
    return False if False in found else None if None in found else True


def estimate_accuracy(report: EvalReport, index: int, k: int = 1) -> Interval:
    """Top-k accuracy of model ``index``, with its interval."""
    hits = _list_hits(report.models[index], k, report.background)
    return estimate_proportion(sum(hits), len(hits))


def compare_predictions(report: EvalReport, index: int, k: int = 1) -> Changed:
    """Model ``index`` against the report's first model, image by image."""
    first, second = report.models[0], report.models[index]
    before, after = _list_hits(first, k, report.background), _list_hits(second, k, report.background)
    gained = sum(b and not a for a, b in zip(before, after, strict=True))
    lost = sum(a and not b for a, b in zip(before, after, strict=True))
    pairs = zip(first.predictions, second.predictions, strict=True)
    return Changed(
        n=len(before),
        changed=sum(a.top[0] != b.top[0] for a, b in pairs),
        gained=gained,
        lost=lost,
        difference=estimate_paired_difference(gained, lost, len(before)),
        p_value=compute_mcnemar(gained, lost),
    )


def _list_hits(evaluated: Evaluated, k: int, background: bool) -> Sequence[bool]:
    """Whether the label is among the first k, per image; class 0 of a model with background is none of the labels."""
    offset = 1 if background else 0
    return [
        prediction.label is not None and prediction.label + offset in prediction.top[:k]
        for prediction in evaluated.predictions
    ]


def _find_doubt(ratio: Interval, tolerance: float) -> str:
    fewest = required_samples(50)
    if ratio.n < fewest:
        return f"{ratio.n} pairs, where a median needs {fewest}"
    if not (0 < ratio.value < math.inf and 0 < ratio.low <= ratio.high):
        return "times that have no ratio"
    width = (ratio.high - ratio.low) / ratio.value
    if not width <= tolerance:
        return f"an interval {width:.1%} wide, wider than the tolerance of {tolerance:.1%}"
    return ""
