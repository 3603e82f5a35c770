"""Derived figures as tables: parity and its gates, latency, accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mbdeploy.derive import Verdict
from mbdeploy.results import Check, Metrics
from mbdeploy.stages.facts import AccuracyFacts, LatencyFact, LatencyFacts, ParityFact
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.stages.wording import (
    name_interval,
    name_list,
    name_ms,
    name_number,
    name_percent,
    name_share,
    name_sqnr,
    name_verdict,
)

_CLOCKS = {"cpu": "CPU time", "wall": "wall clock"}


def tabulate_parity(facts: Sequence[ParityFact]) -> list[Table]:
    """How far every variant is from the reference, as executed and exact."""
    if not facts:
        return []
    several = len({fact.output for fact in facts}) > 1
    images = max(metrics.images for fact in facts if (metrics := fact.executed) is not None)
    rows = tuple(
        (
            f"{fact.model}: {fact.output}" if several else fact.model,
            fact.provider,
            name_sqnr(fact.executed),
            name_sqnr(fact.exact),
            name_share(fact.executed),
            name_number(fact.executed.max_abs if fact.executed else None),
            name_number(fact.executed.cosine if fact.executed else None, 5),
            name_number(fact.saturation.max_lsb if fact.saturation else None),
        )
        for fact in facts
    )
    notes = [f"{fact.model} on {fact.provider}: {reason}" for fact in facts if (reason := _find_reason(fact))]
    notes += [
        f"{fact.model} on {fact.provider}: {len(fact.elsewhere)} nodes ran elsewhere: {', '.join(fact.elsewhere[:4])}"
        for fact in facts
        if fact.elsewhere
    ]
    notes += [f"{fact.model} on {fact.provider}: {fact.fallback}" for fact in facts if fact.fallback]
    notes.append("exact: Q/DQ in float. top-1: images with the reference's best class. LSB: executed against exact.")
    columns = ("file", "on", "SQNR dB", "exact dB", "top-1", "max abs", "cosine", "LSB")
    return [Table(title=f"Parity over {images} images", columns=columns, rows=rows, notes=tuple(notes), left=(0, 1))]


def list_parity_rows(metrics: Sequence[Metrics | None]) -> list[tuple[str, ...]]:
    """SQNR and agreement as rows, one column a model."""
    images = next((found.images for found in metrics if found), 0)
    return [
        ("SQNR of the outputs, dB", *map(name_sqnr, metrics)),
        (f"same best class, {images} images", *map(name_share, metrics)),
    ]


def tabulate_checks(checks: Sequence[Check]) -> list[Table]:
    """Every gate with its value, its bound and its verdict."""
    if not checks:
        return []
    rows = tuple(
        (
            check.subject,
            check.name,
            name_number(check.value),
            f"{check.comparison} {check.bound:.4g}",
            name_verdict(check.passed),
        )
        for check in checks
    )
    notes = tuple(f"{check.name}, {check.subject}: {check.note}" for check in checks if check.note)
    columns = ("what", "gate", "value", "bound", "verdict")
    return [Table(title="Gates", columns=columns, rows=rows, notes=notes, left=(0, 1))]


def tabulate_verdicts(verdicts: Sequence[Verdict], title: str = "Ship the INT8 file?") -> list[Table]:
    """Whether to ship the INT8 file, provider by provider, and what decided."""
    if not verdicts:
        return []
    rows = tuple(
        (found.provider if first else "", found.answer if first else "", reason)
        for found in verdicts
        for first, reason in zip((True, *[False] * len(found.reasons)), found.reasons, strict=False)
    )
    return [Table(title=title, columns=("provider", "verdict", "why"), rows=rows, left=(0, 1, 2))]


def tabulate_latency(facts: LatencyFacts) -> list[Table]:
    """One run: times and ratios, then load, first inference and memory."""
    first = facts.models[0]
    clock = _CLOCKS[first.clock]
    times = tuple(
        (
            model.model,
            *list_times(model),
            name_number(model.wall.images_per_s, 4),
            str(model.wall.n),
        )
        for model in facts.models
    )
    costs = tuple(
        (
            model.model,
            format_bytes(model.size_bytes),
            name_ms(model.load_ns),
            name_ms(model.first_ns),
            format_bytes(model.peak_bytes),
            format_bytes(model.loaded_bytes - model.base_bytes),
            format_bytes(model.peak_bytes - model.loaded_bytes),
        )
        for model in facts.models
    )
    share = f"{100 * facts.control.confidence:.0f} %"
    notes = (
        f"Ratio: {clock}, {_name_pooling(facts.processes)}, {share} interval; percentiles and images/s: wall clock.",
        *describe_run(facts),
        *(
            f"{model.model}: copies to the device and back are in none of these times: {name_ms(model.copy.p50_ns)} ms"
            for model in facts.models
            if model.copy is not None
        ),
        *(
            f"{model.model}: {model.energy_mj:.3g} mJ an image, of all that ran on this machine meanwhile."
            for model in facts.models
            if model.energy_mj is not None
        ),
        *(f"{model.model} on {model.provider}: {model.fallback}" for model in facts.models if model.fallback),
        *describe_board(first.board),
    )
    title = f"Latency on {name_place(first)}"
    columns = ("file", f"{clock} ratio", "p50 ms", "p90 ms", "p99 ms", "images/s", "n")
    return [
        Table(title=title, columns=columns, rows=times, notes=notes),
        Table(
            title="Start and memory, each in a fresh process",
            columns=("file", "on disk", "load ms", "first run ms", "peak memory", "of it: load", "run"),
            rows=costs,
        ),
    ]


def name_place(model: LatencyFact) -> str:
    """Where and how a model was timed: provider, threads, batch."""
    return f"{model.provider}, {_name_threads(model)}, batch {model.batch_size}"


def list_times(model: LatencyFact) -> tuple[str, ...]:
    """The ratio and p50, p90 and p99 in ms, as cells."""
    percentiles = (model.wall.p50_ns, model.wall.p90_ns, model.wall.p99_ns)
    return _name_ratio(model), *map(name_ms, percentiles)


def _name_pooling(processes: int) -> str:
    """What a ratio is of; the interval of one process knows nothing of how processes differ."""
    return f"mean of {processes} processes' medians of pairs" if processes > 1 else "median of one process's pairs"


def list_latency_rows(models: Sequence[LatencyFact]) -> list[tuple[str, ...]]:
    """Time, ratio and memory as rows, one column a model."""
    first = models[0]
    return [
        (f"ms an image, {_name_threads(first)}", *(name_ms(model.wall.p50_ns) for model in models)),
        (f"{_CLOCKS[first.clock]}, paired", *(_name_ratio(model) for model in models)),
        ("peak memory of a process", *(format_bytes(model.peak_bytes) for model in models)),
    ]


def describe_run(facts: LatencyFacts) -> tuple[str, str]:
    """What a run's ratios rest on: its A/A control, and the CPU with its int8 instructions."""
    control = f"{name_interval(facts.control)}, {name_verdict(facts.checks[0].passed)}"
    return f"The baseline against itself (A/A): {control}.", f"{facts.cpu} ({', '.join(facts.isa)})"


def describe_board(board: Mapping[str, Any]) -> list[str]:
    """What a board said of its heat and frequency before and after; nothing for one that said nothing."""
    before, after = board.get("before", {}), board.get("after", {})
    said = [
        f"{name} {name_list(before[key])}, then {name_list(after.get(key, 'unknown'))}{unit}"
        for key, name, unit in (("celsius", "at", " °C"), ("mhz", "at", " MHz"), ("governors", "governor", ""))
        if key in before
    ]
    if board.get("cooled_s", 0) >= 1:
        said.append(f"after {board['cooled_s']:.0f} s of cooling down")
    return [f"The board: {'; '.join(said)}."] if said else []


def tabulate_accuracy(facts: AccuracyFacts) -> list[Table]:
    """Top-1 and top-5 of each model, then what changed against the first one."""
    first, *others = facts.models
    rows = tuple(
        (model.model, model.provider, name_percent(model.top1), name_percent(model.top5), str(model.top1.n))
        for model in facts.models
    )
    notes = ["Class 0 is a background class; labels count from 1."] if facts.background else []
    if len(facts.cpus) > 1:
        notes.append(f"Unlike hosts took part, whose last bits may differ: {', '.join(facts.cpus)}.")
    tables = [
        Table(
            title=f"Accuracy on {facts.data}",
            columns=("file", "on", "top-1 %", "top-5 %", "n"),
            rows=rows,
            notes=tuple(notes),
            left=(0, 1),
        )
    ]
    changes = tuple(
        (
            model.model,
            f"{changed.changed} of {changed.n}",
            f"+{changed.gained} -{changed.lost}",
            name_percent(changed.difference, sign="+"),
            f"{changed.p_value:.2g}",
            name_sqnr(model.metrics),
        )
        for model in others
        if (changed := model.changed) is not None
    )
    if changes:
        columns = ("file", "changed", "right/wrong", "top-1, points", "p", "SQNR dB")
        tables.append(Table(title=f"Against {first.model}, image by image", columns=columns, rows=changes))
    return tables


def _find_reason(fact: ParityFact) -> str | None:
    return next((found.degenerate for found in (fact.executed, fact.exact) if found and found.degenerate), None)


def _name_threads(model: LatencyFact) -> str:
    return f"{model.threads} thread" + "s" * (model.threads > 1)


def _name_ratio(model: LatencyFact) -> str:
    return name_interval(model.ratio) if model.ratio else "baseline"
