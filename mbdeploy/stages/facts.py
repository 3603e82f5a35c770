"""From saved results to the figures a report shows: parity, latency and accuracy, one struct a row."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from statistics import median
from typing import Any

import msgspec

from mbdeploy.derive import (
    Changed,
    Clock,
    Latency,
    choose_clock,
    compare_predictions,
    compare_series,
    estimate_accuracy,
    judge_run,
    summarise_latency,
)
from mbdeploy.estimate import Interval
from mbdeploy.results import BenchRun, Check, EvalReport, Metrics, ParityReport, ParityRow
from mbdeploy.stages.placement import judge_placements


class ParityFact(msgspec.Struct, frozen=True, kw_only=True):
    """One output of one model on one provider. ``executed`` and ``exact`` are against the reference,
    ``saturation`` is executed against exact (None where it does not exist). ``fallback`` is why it ran on the CPU
    instead of the provider asked for, if it did."""

    model: str
    provider: str
    output: str
    executed: Metrics | None
    exact: Metrics | None
    saturation: Metrics | None
    elsewhere: tuple[str, ...]
    fallback: str = ""


class LatencyFact(msgspec.Struct, frozen=True, kw_only=True):
    """One model of one run. ``ratio`` is its time over the baseline's by ``clock``, None for the baseline itself;
    ``wall`` and ``cpu`` are its own times, ``copy`` those of copies to a device and back (None where there are none).
    ``load_ns`` and ``first_ns`` are medians over processes; ``size_bytes`` is the file's. ``energy_mj`` is what the
    whole machine took for an image, None where no sensor says.
    ``fallback`` is why it ran on the CPU instead of the provider asked for, if it did; ``board`` is what a board said
    of its temperature and frequency before and after."""

    model: str
    provider: str
    threads: int
    batch_size: int
    clock: Clock
    ratio: Interval | None
    wall: Latency
    cpu: Latency
    load_ns: int
    first_ns: int
    peak_bytes: int
    loaded_bytes: int
    base_bytes: int
    size_bytes: int = 0
    energy_mj: float | None = None
    copy: Latency | None = None
    fallback: str = ""
    board: dict[str, Any] = {}


class LatencyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One run: its models, the ratio of the baseline to itself (``control``), and the verdicts.

    ``processes`` is how many took its pairs.
    """

    models: tuple[LatencyFact, ...]
    control: Interval
    checks: tuple[Check, ...]
    cpu: str
    isa: tuple[str, ...]
    inputs: str
    processes: int = 1


class AccuracyFact(msgspec.Struct, frozen=True, kw_only=True):
    """One model over labelled data; ``changed`` and ``metrics`` are against the first model (None for itself)."""

    model: str
    top1: Interval
    top5: Interval
    changed: Changed | None
    metrics: Metrics | None
    provider: str = ""


class AccuracyFacts(msgspec.Struct, frozen=True, kw_only=True):
    """All models over one labelled data set; ``cpus`` are those that took part."""

    data: str
    background: bool
    models: tuple[AccuracyFact, ...]
    cpus: tuple[str, ...] = ()


def derive_parity(report: ParityReport) -> tuple[ParityFact, ...]:
    """One fact a model, provider and output, in the order of the report."""
    groups = groupby(report.rows, key=lambda row: (row.model.name, row.provider, row.output))
    return tuple(_collect_parity(*key, list(rows)) for key, rows in groups)


def derive_latency(run: BenchRun) -> LatencyFacts:
    """The figures of one run, and its verdicts."""
    clock = choose_clock(run)
    models = tuple(
        LatencyFact(
            model=series.model.name,
            provider=run.provider,
            threads=run.threads,
            batch_size=run.batch_size,
            clock=clock,
            ratio=compare_series(run, index, clock) if index else None,
            wall=summarise_latency(series, run.batch_size, "wall"),
            cpu=summarise_latency(series, run.batch_size, "cpu"),
            load_ns=round(median(series.loads_ns or (series.load_ns,))),
            first_ns=round(median(series.firsts_ns or (series.first_ns,))),
            peak_bytes=series.peak_bytes,
            loaded_bytes=series.loaded_bytes,
            base_bytes=series.base_bytes,
            size_bytes=series.model.size_bytes,
            energy_mj=series.energy_uj / 1e3 / series.energy_runs / run.batch_size if series.energy_runs else None,
            copy=summarise_latency(series, run.batch_size, "copy") if series.copy_ns else None,
            fallback=series.session.get("fallback", ""),
            board=series.session.get("board", {}),
        )
        for index, series in enumerate(run.series)
    )
    return LatencyFacts(
        models=models,
        control=compare_series(run, -1, clock),
        checks=(*judge_run(run), *judge_placements(run)),
        cpu=run.host.cpu,
        isa=run.host.isa,
        inputs=run.inputs,
        processes=len(set(run.series[0].process)) or 1,
    )


def derive_accuracy(report: EvalReport) -> AccuracyFacts:
    """The figures of one evaluation."""
    models = tuple(
        AccuracyFact(
            model=evaluated.model.name,
            top1=estimate_accuracy(report, index, 1),
            top5=estimate_accuracy(report, index, 5),
            changed=compare_predictions(report, index) if index else None,
            metrics=report.metrics[index - 1] if index else None,
            provider=evaluated.provider,
        )
        for index, evaluated in enumerate(report.models)
    )
    cpus = tuple(host.cpu for host in (report.host, *report.other_hosts))
    return AccuracyFacts(data=report.data, background=report.background, models=models, cpus=cpus)


def _collect_parity(model: str, provider: str, output: str, rows: Iterable[ParityRow]) -> ParityFact:
    found = {(row.mode, row.against): row for row in rows}
    metrics = {key: row.metrics for key, row in found.items()}
    executed = found.get(("executed", "reference"))
    return ParityFact(
        model=model,
        provider=provider,
        output=output,
        executed=metrics.get(("executed", "reference")),
        exact=metrics.get(("exact", "reference")),
        saturation=metrics.get(("executed", "exact")),
        elsewhere=executed.placement.elsewhere if executed else (),
        fallback=executed.session.get("fallback", "") if executed else "",
    )
