"""Whether to ship a mix: its checks, with times that several fresh processes took, and one word for the search."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from mbdeploy.derive import (
    Answer,
    Finding,
    Verdict,
    choose_clock,
    compare_series,
    judge_gain,
    judge_run,
    settle_verdict,
)
from mbdeploy.estimate import Interval
from mbdeploy.mixing.report import Goals, Mix, MixReport
from mbdeploy.quant.metrics import check
from mbdeploy.results import BenchRun, Check

#: The name of the check for a gain.
GAIN = "time ratio, upper end"
#: What a check speaks for, and the other way round.
_ANSWERS: dict[bool | None, Answer] = {True: "ship", False: "don't ship", None: "inconclusive"}
_PASSED = {answer: passed for passed, answer in _ANSWERS.items()}


def judge_mix(mix: Mix, run: BenchRun, goals: Goals) -> tuple[Check, ...]:
    """The A/A control of the ``run`` that timed the mix against optimised FP32, a check for a gain, and one a goal.

    Rules: 1. a gain is what :func:`mbdeploy.derive.judge_gain` says. 2. A goal for time fails if the interval lies
    beyond it; it is inconclusive if it lies on both sides, or where the run itself is. 3. A drop beyond its goal fails;
    one that only the estimate keeps is inconclusive. 4. NaN never passes; an SQNR of NaN fails without a goal, too.
    """
    control, gate = judge_run(run)[:2]
    ratio = compare_series(run, 1)
    answer, said = judge_gain(ratio, choose_clock(run), control, gate)
    gain = check(GAIN, gate.subject, ratio.high, 1.0, "<=")
    checks = [control, msgspec.structs.replace(gain, passed=_PASSED[answer], note=said)]
    if goals.target_ratio is not None:
        checks.append(_judge_time(ratio, goals.target_ratio, gate))
    if goals.max_drop is not None:
        checks.append(_judge_drop(mix.drop, goals.max_drop, gate.subject))
    if goals.min_sqnr is not None or math.isnan(mix.sqnr_db):
        least = -math.inf if goals.min_sqnr is None else goals.min_sqnr
        checks.append(check("sqnr_db", gate.subject, mix.sqnr_db, least, ">="))
    return tuple(checks)


def is_refused(checks: Sequence[Check]) -> bool:
    """Whether a mix is not to be written: a check failed, other than the control, which says nothing of the mix."""
    return any(check.passed is False for check in checks[1:])


def judge_search(report: MixReport) -> Verdict:
    """Ship the file that the search chose, don't ship INT8 here, or inconclusive, and why: a function of what is saved.

    Rules: 1. the verdict is that of the checks of the mix that was written, the worst first. 2. Where none was, every
    mix that was made in full was refused, and the answer is "don't ship", for what refused each. 3. Where nothing was
    timed in full, nothing is known.
    """
    judged = [
        (mix.name, judge_mix(mix, report.timed[mix.name], report.goals)[1:])
        for mix in report.made
        if mix.name in report.timed and report.chosen in (None, mix.name)
    ]
    findings: list[Finding] = [
        _find(check) if report.chosen else ("don't ship", f"{name}: {_find(check)[1]}")
        for name, checks in judged
        for check in checks
        if report.chosen or check.passed is False
    ]
    if not findings:
        findings = [("inconclusive", "no mix was quantized in full and timed against optimised FP32")]
    return settle_verdict(report.chosen or report.model.name, report.provider, findings)


def _find(check: Check) -> Finding:
    """What one check speaks for. (That of a gain says so in its own words.)"""
    answer = _ANSWERS[check.passed]
    if check.name == GAIN:
        return answer, check.note
    holds = "" if check.passed else ", not" if check.passed is False else ", not surely"
    note = f": {check.note}" if check.note else ""
    return answer, f"{check.name} {check.value:.4g}{holds} {check.comparison} {check.bound:.4g}{note}"


def _judge_time(ratio: Interval, target: float, gate: Check) -> Check:
    judged = check("time ratio", gate.subject, ratio.value, target, "<=")
    if gate.passed is None:
        return msgspec.structs.replace(judged, passed=None, note=gate.note)
    if ratio.high <= target or ratio.low > target:
        return judged
    note = f"the interval [{ratio.low:.3f}, {ratio.high:.3f}] holds the target"
    return msgspec.structs.replace(judged, passed=None, note=note)


def _judge_drop(found: Interval, bound: float, subject: str) -> Check:
    judged = check("top-1 drop", subject, found.value, bound, "<=")
    if judged.passed and not found.high <= bound:
        note = f"up to {found.high:.3g} with {100 * found.confidence:.0f} % confidence; more images would tell"
        return msgspec.structs.replace(judged, passed=None, note=note)
    return judged
