"""A new INT8 file against another version of the same model, both run now: noise, classes and time, in pairs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.derive import judge_ratio
from mbdeploy.errors import ModelError
from mbdeploy.estimate import compute_mcnemar, estimate_ratio_of_sums
from mbdeploy.gating.holm import ALPHA, compute_p_value
from mbdeploy.gating.keeping import keep_runs
from mbdeploy.gating.report import Change, Gate
from mbdeploy.gating.rules import IDS
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.metrics import compare_outputs, sum_errors
from mbdeploy.results import BenchRun, Check, Metrics
from mbdeploy.stages.bench import bench
from mbdeploy.stages.facts import LatencyFacts, derive_latency
from mbdeploy.stages.reference import load_reference
from mbdeploy.stages.reporting.reading import BESIDE
from mbdeploy.stages.subject import name_provider, plan_session, read_subjects
from mbdeploy.targets import Job, open_target, parse_provider

#: What another version may be better by: decibels of SQNR, and the share of images with the right class.
MAX_LOSS_DB = 0.5
MAX_LOSS_TOP1 = 0.01
_ALL = 1 << 31


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What the comparison with another version gave: gates, and figures side by side."""

    gates: tuple[Gate, ...]
    changes: tuple[Change, ...]
    latency: tuple[LatencyFacts, ...] = ()


class Pair(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One output of both versions, (before, now), with the reference's, and the metrics of both against it."""

    expected: NDArray[Any]
    outputs: tuple[NDArray[Any], NDArray[Any]]
    figures: tuple[Metrics, Metrics]


def find_version(baseline: Path, card: str) -> Path | None:
    """The other version's int8.onnx: in ``baseline`` itself, or in the card's folder there; None if it has none."""
    places = (baseline / card / "int8.onnx", baseline / "int8.onnx")
    return next((place for place in places if place.is_file()), None)


def refuse_baseline(baseline: Path) -> ModelError:
    """The error for a baseline in which no card has a file."""
    return ModelError(
        where=baseline,
        expected="int8.onnx of another version, in this folder or in a folder of the card's name",
        found="no such file",
        todo="check --baseline: it is an output folder of `mbdeploy run` or `check`",
    )


def compare_versions(
    card: str,
    folder: Path,
    other: Path,
    *,
    providers: Sequence[str],
    tolerance: float = 0.05,
    on_progress: Progress = ignore_progress,
    **options: Any,
) -> Versions:
    """Run ``folder/int8.onnx`` and ``other`` on the golden images of ``folder``, and time them in turns; raw times are
    kept in ``folder``, as ``BESIDE`` says.

    ``options`` are those of ``bench``.

    Raises:
        UnavailableError: a provider that is not here. StepError: a file that the runtime refuses.
        DataError: another input or another number of outputs: it is no version of the same model.
    """
    told: dict[str, Any] = {"providers": providers, "on_progress": on_progress}
    opening = {key: options[key] for key in ("threads", "allow_fallback") if key in options}
    found = compare_answers(card, folder, other, **told, **opening)
    runs = time_versions(folder, other, tolerance=tolerance, **told, **options)
    keep_runs(folder, BESIDE, (other, folder / "int8.onnx"), runs, tolerance=tolerance, **options)
    return add_times(found, card, [derive_latency(run) for run in runs], tolerance)


def compare_answers(
    card: str,
    folder: Path,
    other: Path,
    *,
    providers: Sequence[str],
    threads: int = 1,
    allow_fallback: bool = False,
    on_progress: Progress = ignore_progress,
) -> Versions:
    """The part of ``compare_versions`` in which time does not count."""
    subjects = read_subjects((other, folder / "int8.onnx"))
    against = load_reference(
        subjects, golden=folder / "golden.npz", reference=None, data=None, preprocess=None, num_samples=_ALL
    )
    gates: list[Gate] = []
    changes: list[Change] = []
    for word in dict.fromkeys(providers):
        provider = parse_provider(word)
        sessions = tuple(
            plan_session(subject, provider, threads=threads, allow_fallback=allow_fallback) for subject in subjects
        )
        on_progress(f"both versions on {word}", 0, 0)
        before, now = open_target(provider).run(Job(kind="infer", sessions=sessions, inputs=against.inputs)).sessions
        label = name_provider(provider, now)
        for index in range(len(against.outputs)):
            name = f"int8 on {label}" + (f", output {index}" if len(against.outputs) > 1 else "")
            pair = compare_pair(against.outputs[index], before.outputs[index], now.outputs[index])
            gates += judge_outputs(card, label, name, pair)
            changes += list_changes(label, pair)
    return Versions(gates=tuple(gates), changes=tuple(changes))


def time_versions(folder: Path, other: Path, **options: Any) -> list[BenchRun]:
    """Both versions by turns, one run a provider; ``options`` are those of ``bench``."""
    return bench((other, folder / "int8.onnx"), inputs=folder / "golden.npz", **options)


def add_times(found: Versions, card: str, facts: Sequence[LatencyFacts], tolerance: float) -> Versions:
    """The comparison, with what the times come to."""
    gates, changes = list(found.gates), list(found.changes)
    for fact in facts:
        gates += judge_latency(card, fact, index=1, budget=1.0, tolerance=tolerance, name="baseline_latency")
        changes.append(_list_times(fact))
    return Versions(gates=tuple(gates), changes=tuple(changes), latency=tuple(facts))


def judge_latency(
    card: str, fact: LatencyFacts, *, index: int, budget: float, tolerance: float, name: str, key: str = ""
) -> list[Gate]:
    """The gate on the time of series ``index`` over the baseline's, and the A/A control that it rests on.

    Rules: 1. those of ``derive.judge_ratio``. 2. It is inconclusive unless the control passed.
    """
    model = fact.models[index]
    ratio = model.ratio
    assert ratio is not None
    control = next(check for check in fact.checks if check.name == "A/A control")
    check = judge_ratio(ratio, tolerance, budget, name, f"int8 on {model.provider}")
    if control.passed is not True:
        check = msgspec.structs.replace(check, passed=None, note="the A/A control of this run did not pass")
    p_value = compute_p_value(ratio, budget)
    return [
        make_gate(card, model.provider, check, key=key, p_value=p_value),
        make_gate(card, model.provider, msgspec.structs.replace(control, subject=f"int8 on {model.provider}")),
    ]


def compare_pair(expected: NDArray[Any], before: NDArray[Any], now: NDArray[Any]) -> Pair:
    """One output of both versions against the reference's."""
    figures = (compare_outputs(expected, before), compare_outputs(expected, now))
    return Pair(expected=expected, outputs=(before, now), figures=figures)


def judge_outputs(card: str, provider: str, subject: str, pair: Pair) -> list[Gate]:
    """Noise and classes of one output, image by image against the reference.

    Rules: 1. an output that cannot be believed fails. 2. Noise fails if it is more than ``MAX_LOSS_DB`` worse and the
    ratio of errors lies above 1 with 99 % confidence; classes if more than ``MAX_LOSS_TOP1`` of images are lost, which
    McNemar's test says is no chance. 3. Beyond the bound, but not surely, is inconclusive.
    """
    before, now = pair.figures
    fault = now.degenerate or before.degenerate
    value = 0.0 if now.sqnr_db == before.sqnr_db else now.sqnr_db - before.sqnr_db
    noise = _check("baseline_sqnr_db", subject, value, -MAX_LOSS_DB, fault)
    p_value = None
    if not fault and not math.isinf(before.sqnr_db):
        sums = [sum_errors(pair.expected, output) for output in pair.outputs]
        errors = estimate_ratio_of_sums(sums[1], sums[0])
        p_value = compute_p_value(errors, 1.0)
        noise = _doubt(noise, sure=errors.low > 1, images=len(pair.expected))
    gates = [make_gate(card, provider, noise, p_value=p_value)]
    if not fault and now.top1_agreement is not None:
        gates.append(_judge_classes(card, provider, subject, pair))
    return gates


def list_changes(provider: str, pair: Pair) -> list[Change]:
    """The figures of both, and how far they are from one another."""
    before, now = pair.figures
    direct = compare_outputs(*pair.outputs)
    same = "" if direct.top1_agreement is None else f"; the same class on {100 * direct.top1_agreement:.1f} %"
    note = f"against one another: {_say_db(direct)}{same}"
    changes = [Change(provider=provider, figure="SQNR", before=_say_db(before), now=_say_db(now), note=note)]
    if now.top1_agreement is not None or before.top1_agreement is not None:
        shares = (_say_share(before), _say_share(now))
        changes.append(Change(provider=provider, figure="reference's class", before=shares[0], now=shares[1]))
    return changes


def make_gate(card: str, provider: str, check: Check, *, key: str = "", p_value: float | None = None) -> Gate:
    """A gate on the INT8 file; its rule is known by the name of the check."""
    return Gate(
        card=card,
        variant="int8",
        provider=provider,
        rule=IDS[check.name],
        check=check,
        budget=key,
        p_value=p_value,
    )


def _judge_classes(card: str, provider: str, subject: str, pair: Pair) -> Gate:
    """Images won and lost: an image is right where all its best classes are the reference's (one, or one a pixel)."""
    count = len(pair.expected)
    classes = [output.argmax(axis=1) for output in (pair.expected, *pair.outputs)]
    before, now = ((found == classes[0]).reshape(count, -1).all(axis=1) for found in classes[1:])
    gained, lost = int(np.count_nonzero(now & ~before)), int(np.count_nonzero(before & ~now))
    p_value = compute_mcnemar(gained, lost) if lost > gained else 1.0
    check = _check("baseline_top1", subject, (gained - lost) / count, -MAX_LOSS_TOP1, None)
    note = f"{gained} images won, {lost} lost of {count}"
    check = msgspec.structs.replace(_doubt(check, sure=p_value <= ALPHA, images=count), note=note)
    return make_gate(card, provider, check, p_value=p_value)


def _check(name: str, subject: str, value: float, bound: float, fault: str | None) -> Check:
    holds = bool(value >= bound) and not fault
    return Check(name=name, subject=subject, value=value, bound=bound, comparison=">=", passed=holds, note=fault or "")


def _doubt(check: Check, *, sure: bool, images: int) -> Check:
    if check.passed or sure:
        return check
    return msgspec.structs.replace(check, passed=None, note=f"{images} images cannot tell it from chance")


def _list_times(fact: LatencyFacts) -> Change:
    before, now = fact.models
    ratio = now.ratio
    note = f"ratio {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]" if ratio else ""
    times = [(model.cpu if model.clock == "cpu" else model.wall).p50_ns for model in (before, now)]
    said = ["n/a" if value is None else f"{value / 1e6:.2f} ms" for value in times]
    figure = "CPU time a run" if now.clock == "cpu" else "time a run"
    return Change(provider=now.provider, figure=figure, before=said[0], now=said[1], note=note)


def _say_db(metrics: Metrics) -> str:
    if metrics.degenerate:
        return metrics.degenerate
    return "equal" if metrics.sqnr_db == math.inf else f"{metrics.sqnr_db:.2f} dB"


def _say_share(metrics: Metrics) -> str:
    return "n/a" if metrics.top1_agreement is None else f"{100 * metrics.top1_agreement:.1f} %"
