"""The report as one HTML page: what it says of each folder and of each sweep."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from markupsafe import Markup

from mbdeploy.records import QuantizeRecord
from mbdeploy.stages import figures, wording
from mbdeploy.stages.bench_explain_tables import tabulate_explanation
from mbdeploy.stages.layer_tables import tabulate_layers
from mbdeploy.stages.mix_page import Section, describe_search
from mbdeploy.stages.reporting import (
    heat,
    layer_charts,
    origins,
    quality_charts,
    sweep_charts,
    sweep_origins,
    sweep_tables,
    tables,
    time_charts,
)
from mbdeploy.stages.reporting.chart import Chart
from mbdeploy.stages.reporting.facts import PlacementFact, Report, choose_runs
from mbdeploy.stages.reporting.frame import render_frame
from mbdeploy.stages.reporting.histograms import Histogram, draw_histogram, read_histograms
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.reporting.reading import Saved, SavedSweep
from mbdeploy.stages.reporting.sweeps import SweepFacts
from mbdeploy.stages.reporting.variants import list_fields, list_hosts, list_variants, name_models, tell_apart
from mbdeploy.stages.tables import Table


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of one folder."""

    name: str
    report: Report
    summary: Table
    missing: list[tuple[str, str]]
    gates: list[Table]
    latency: list[tuple[Chart, list[Table]]]
    overviews: list[Chart]
    heats: list[heat.Heat]
    accuracy: list[Table]
    times: Chart | None
    time_tables: list[Table]
    layers: list[Chart]
    curve_tables: list[Table]
    layer_table: Table | None
    histograms: list[tuple[Histogram, Markup]]
    placements: list[Table]
    searches: list[Section]
    stages: list[Table]
    origins: Table


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of one sweep."""

    name: str
    facts: SweepFacts
    fronts: list[Chart]
    macs: list[Chart]
    warnings: list[str]
    sentences: list[str]
    rows: Table
    misled: list[Table]
    hosts: Table
    origins: Table


def render_page(
    reports: Sequence[Report],
    saved: Sequence[Saved],
    swept: Sequence[SweepFacts] = (),
    saved_sweeps: Sequence[SavedSweep] = (),
) -> str:
    """The whole page: models side by side, each on its own, then sweeps. Names are shortened and escaped."""
    names = [shorten(name) for name in name_models(reports, [one.folder for one in saved])]
    variants = list_variants(reports, names)
    fields = list_fields(variants)
    models = [_describe(number, *each) for number, each in enumerate(zip(names, reports, saved, strict=True))]
    apart = tell_apart([one.sweep for one in swept], [one.folder for one in saved_sweeps])
    described = zip(apart, swept, saved_sweeps, strict=True)
    sweeps = [_describe_sweep(number, *each) for number, each in enumerate(described)]
    pareto = list(quality_charts.draw_pareto(variants, fields))
    names += [sweep.name for sweep in sweeps]
    facts: list[Any] = [*reports, *swept]
    return render_frame(
        "report.html",
        title=names[0] if len(names) == 1 else f"{len(names)} models",
        charts=[
            *pareto,
            *(chart for model in models for chart in _list_charts(model)),
            *(chart for sweep in sweeps for chart in (*sweep.fronts, *sweep.macs)),
        ],
        facts=facts[0] if len(facts) == 1 else facts,
        command="report",
        scale=heat.list_colors(),
        seeded=tables.SEEDED,
        names=names,
        models=models,
        sweeps=sweeps,
        several=len(names) > 1,
        pareto=pareto,
        compared=tables.tabulate_variants(variants, list_hosts(reports)),
    )


def _describe(number: int, name: str, report: Report, saved: Saved) -> Model:
    layers = report.quantize.layers if report.quantize else ()
    drawn = (
        *(layer_charts.draw_curve(f"{number}-{place}", curve) for place, curve in enumerate(report.layers)),
        layer_charts.draw_recovery(number, layers),
        layer_charts.draw_ranges(number, layers),
    )
    explanation = report.explanation
    pairs = zip((run for _, run in choose_runs(saved)), report.latency, strict=True)
    return Model(
        name=name,
        report=report,
        summary=tables.tabulate_side_by_side(report),
        missing=origins.list_missing(saved),
        gates=tables.tabulate_gates(report),
        latency=[
            (time_charts.draw_latency(f"{number}-{index}", run, facts), figures.tabulate_latency(facts))
            for index, (run, facts) in enumerate(pairs)
        ],
        overviews=[
            chart
            for chart in (time_charts.draw_ratios(number, report), time_charts.draw_sweep(number, report))
            if chart is not None
        ],
        heats=heat.arrange_parity(report),
        accuracy=[table for data in report.accuracy for table in figures.tabulate_accuracy(data)],
        times=layer_charts.draw_times(number, explanation) if explanation else None,
        time_tables=tabulate_explanation(explanation, most=None) if explanation else [],
        layers=[chart for chart in drawn if chart is not None],
        curve_tables=tabulate_layers(report.layers),
        layer_table=_tabulate_layers(report.quantize) if report.quantize else None,
        histograms=[(histogram, draw_histogram(histogram)) for histogram in read_histograms(saved.folder)],
        placements=[_tabulate_placement(placement) for placement in report.placements],
        searches=[
            describe_search(one.search, one.verdict, f"{number}-{place}") for place, one in enumerate(report.searches)
        ],
        stages=tables.tabulate_stages(report),
        origins=origins.tabulate_origins(saved),
    )


def _describe_sweep(number: int, name: str, facts: SweepFacts, saved: SavedSweep) -> Sweep:
    return Sweep(
        name=shorten(name),
        facts=facts,
        fronts=list(sweep_charts.draw_fronts(number, facts)),
        macs=list(sweep_charts.draw_macs(number, facts)),
        warnings=[*sweep_tables.describe_unsteady(facts), *facts.stale],
        sentences=sweep_tables.describe_macs(facts),
        rows=sweep_tables.tabulate_rows(facts),
        misled=sweep_tables.tabulate_macs(facts),
        hosts=tables.tabulate_hosts(facts.hosts),
        origins=sweep_origins.tabulate_origins(saved),
    )


def _list_charts(model: Model) -> Iterable[Chart]:
    yield from (chart for chart, _ in model.latency)
    yield from (search.chart for search in model.searches)
    yield from (*model.overviews, *([model.times] if model.times else []), *model.layers)


def _tabulate_layers(record: QuantizeRecord) -> Table:
    """Every quantized layer, in the order of the graph."""
    rows = tuple(
        (
            str(index),
            layer.node,
            f"{layer.operator}, depthwise" if layer.depthwise else layer.operator,
            _name_range(layer.input_range),
            _name_range(layer.output_range),
            _name_range(layer.weight_scale),
            f"{layer.growth_max:.2f}",
            f"{100 * layer.clipping:.0f}",
            *(f"{decibels:.2f}" for decibels in layer.recovered_db or ()),
            *([wording.NOT_AVAILABLE] * (0 if layer.recovered_db else 2)),
        )
        for index, layer in enumerate(record.layers, start=1)
    )
    columns = ("#", "node", "operator", "input", "output", "weight scales", "growth", "clips %", "nearest", "dB")
    note = (
        "growth: the largest pair-safe scale over the plain one. clips: channels whose plain scales could saturate on "
        "AVX2. nearest, dB: SQNR of the output from quantized inputs, with weights rounded to nearest and as in the "
        "file."
    )
    return Table(title="Every layer", columns=columns, rows=rows, notes=(note,), left=(1, 2))


def _tabulate_placement(fact: PlacementFact) -> Table:
    rows = tuple(
        (operator, kind or wording.NOT_AVAILABLE, str(count))
        for operator, kinds in fact.operators.items()
        for kind, count in kinds.items()
    )
    ran = ", ".join(f"{count} on {provider}" for provider, count in fact.nodes.items())
    taken = ", ".join(f"{count} on {provider}" for provider, count in fact.assigned.items())
    said = {"Taken, before they were fused": taken, "Ran elsewhere": ", ".join(fact.elsewhere)}
    notes = tuple(f"{what}: {nodes}" for what, nodes in said.items() if nodes)
    title = f"{fact.model} on {fact.provider}: {ran}"
    return Table(title=title, columns=("operator", "type", "nodes"), rows=rows, notes=notes, left=(0, 1))


def _name_range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.4g} … {bounds[1]:.4g}"
