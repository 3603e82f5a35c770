"""Ship the INT8 file on a provider, or not: one word from parity gates, paired latency and paired accuracy."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.derive import Finding, Verdict, judge_gain, settle_verdict
from mbdeploy.results import Check, is_about, name_gate
from mbdeploy.stages.facts import AccuracyFacts, LatencyFact, LatencyFacts

#: Top-1 that INT8 may lose, as a share: one point.
MAX_DROP = 0.01
_CANDIDATE = "int8"


def judge_int8(
    latency: Sequence[LatencyFacts],
    checks: Sequence[Check],
    accuracy: Sequence[AccuracyFacts],
    *,
    trained: bool | None,
) -> tuple[Verdict, ...]:
    """One verdict for each run that timed the INT8 file against optimised FP32.

    Rules: 1. "don't ship" if a parity gate failed, if INT8 is slower (the interval of the ratio lies above 1), or if
    it loses more than ``MAX_DROP`` of top-1 (the interval lies below). 2. "inconclusive" if speed or accuracy is
    unknown: a gate or a control that is inconclusive, an interval that holds 1 or the bound, weights that were never
    trained. 3. Else "ship". Without labelled images the parity gates stand for accuracy, and the reasons say so.
    """
    verdicts = []
    for run in latency:
        fact = next((model for model in run.models[1:] if model.model == _CANDIDATE), None)
        if fact is None or fact.ratio is None:
            continue
        own = [check for check in checks if is_about(check, _CANDIDATE, fact.provider)]
        findings: list[Finding] = [
            *(("don't ship", _describe_failure(check)) for check in own if check.passed is False),
            *(
                ("inconclusive", f"the gate on {name_gate(check)}: {check.note}")
                for check in own
                if check.passed is None
            ),
            _judge_speed(fact, run),
            *_judge_accuracy(accuracy, own, fact.provider, trained=trained),
        ]
        verdicts.append(settle_verdict(_CANDIDATE, fact.provider, findings))
    return tuple(verdicts)


def _describe_failure(check: Check) -> str:
    return f"the gate on {name_gate(check)} failed: {check.value:.4g}, not {check.comparison} {check.bound:.4g}"


def _judge_speed(fact: LatencyFact, run: LatencyFacts) -> Finding:
    assert fact.ratio is not None
    control = next((check for check in run.checks if check.name == "A/A control"), None)
    gate = next((check for check in run.checks if is_about(check, fact.model, fact.provider)), None)
    return judge_gain(fact.ratio, fact.clock, control, gate)


def _judge_accuracy(
    accuracy: Sequence[AccuracyFacts], checks: Sequence[Check], provider: str, *, trained: bool | None
) -> list[Finding]:
    if trained is False:
        return [("inconclusive", "seeded weights: there is no accuracy to lose")]
    found = [
        model.changed
        for data in accuracy
        for model in data.models[1:]
        if model.model == _CANDIDATE and model.provider == provider and model.changed is not None
    ]
    if not found:
        passed = [f"{name_gate(check)} {check.value:.4g}" for check in checks if check.passed]
        if not passed:
            return [("inconclusive", "neither accuracy nor parity was measured")]
        said = f"gates passed ({', '.join(passed)}); accuracy on labelled images was not measured on {provider}"
        return [("ship", said)]
    findings: list[Finding] = []
    for changed in found:
        drop = changed.difference
        said = f"top-1 {100 * drop.value:+.1f} points [{100 * drop.low:+.1f}, {100 * drop.high:+.1f}], n = {changed.n}"
        if drop.low >= -MAX_DROP:
            findings.append(("ship", said))
        elif drop.high < -MAX_DROP:
            findings.append(("don't ship", said))
        else:
            findings.append(("inconclusive", f"{said}: more images would tell whether a point is lost"))
    return findings
