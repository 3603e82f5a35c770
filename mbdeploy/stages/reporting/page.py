"""The report as one HTML page that needs nothing else: styles, script, Plotly and every number are inside."""

from __future__ import annotations

import base64
import gzip
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import msgspec
from markupsafe import Markup

from mbdeploy.records import QuantizeRecord
from mbdeploy.results import encode_result
from mbdeploy.stages import figures, sections, wording
from mbdeploy.stages.bench_explain_tables import tabulate_explanation
from mbdeploy.stages.layer_tables import tabulate_layers
from mbdeploy.stages.pages import open_template
from mbdeploy.stages.reporting import heat, layer_charts, origins, quality_charts, tables, time_charts
from mbdeploy.stages.reporting.chart import Chart, escape_for_plotly
from mbdeploy.stages.reporting.facts import PlacementFact, Report
from mbdeploy.stages.reporting.histograms import Histogram, draw_histogram, read_histograms
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.reporting.reading import Saved
from mbdeploy.stages.reporting.svg import render_svg
from mbdeploy.stages.reporting.variants import list_fields, list_hosts, list_variants, name_models
from mbdeploy.stages.tables import Table

_MARKS = {"ship": "✓", "don't ship": "✗", "inconclusive": "?", "pass": "✓", "FAIL": "✗"}
_CLASSES = {"ship": "good", "pass": "good", "don't ship": "bad", "FAIL": "bad", "inconclusive": "open"}


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
    stages: list[Table]
    origins: Table


def render_page(reports: Sequence[Report], saved: Sequence[Saved]) -> str:
    """The whole page; names from models are shortened and escaped.

    Nothing in the page may load anything or run any script but the two that are named here by their digests.
    """
    names = [shorten(name) for name in name_models(reports, [one.folder for one in saved])]
    variants = list_variants(reports, names)
    hosts = list_hosts(reports)
    fields = list_fields(variants)
    models = [_describe(number, *each) for number, each in enumerate(zip(names, reports, saved, strict=True))]
    pareto = list(quality_charts.draw_pareto(variants, fields))
    drawn = [*pareto, *(chart for model in models for chart in _list_charts(model))]
    script = resources.files("mbdeploy.stages").joinpath("templates/report.js").read_text(encoding="utf-8")
    plotly = _read_plotly()
    template = open_template(
        "report.html",
        marks=_MARKS,
        classes=_CLASSES,
        short=shorten,
        render_svg=render_svg,
        scale=heat.list_colors(),
        seeded=tables.SEEDED,
    )
    page: str = template.render(
        title=names[0] if len(names) == 1 else f"{len(names)} models",
        models=models,
        several=len(models) > 1,
        pareto=pareto,
        compared=tables.tabulate_variants(variants, hosts),
        charts=_embed([escape_for_plotly(msgspec.to_builtins(chart)) for chart in drawn]),
        facts=_embed(_shorten_all(msgspec.json.decode(encode_result(reports[0] if len(reports) == 1 else reports)))),
        script=Markup(script),
        plotly=Markup(base64.b64encode(gzip.compress(plotly.encode(), 9, mtime=0)).decode()),
        policy=" ".join(f"'sha256-{_digest(text)}'" for text in (script, plotly)),
    )
    return page.rstrip("\n")


def _describe(number: int, name: str, report: Report, saved: Saved) -> Model:
    layers = report.quantize.layers if report.quantize else ()
    drawn = (
        *(layer_charts.draw_curve(f"{number}-{place}", curve) for place, curve in enumerate(report.layers)),
        layer_charts.draw_recovery(number, layers),
        layer_charts.draw_ranges(number, layers),
    )
    explanation = report.explanation
    pairs = zip(saved.runs, report.latency, strict=True)
    stages = [
        *(sections.tabulate_export(report.export) if report.export else ()),
        *(sections.tabulate_simplify(report.simplify) if report.simplify else ()),
        *(sections.tabulate_quantize(report.quantize) if report.quantize else ()),
    ]
    return Model(
        name=name,
        report=report,
        summary=tables.tabulate_side_by_side(report),
        missing=origins.list_missing(saved),
        gates=figures.tabulate_checks((*report.checks, *(check for run in report.latency for check in run.checks))),
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
        time_tables=tabulate_explanation(explanation) if explanation else [],
        layers=[chart for chart in drawn if chart is not None],
        curve_tables=tabulate_layers(report.layers),
        layer_table=_tabulate_layers(report.quantize) if report.quantize else None,
        histograms=[(histogram, draw_histogram(histogram)) for histogram in read_histograms(saved.folder)],
        placements=[_tabulate_placement(placement) for placement in report.placements],
        stages=[tables.tabulate_files(report), *stages],
        origins=origins.tabulate_origins(saved),
    )


def _list_charts(model: Model) -> Iterable[Chart]:
    yield from (chart for chart, _ in model.latency)
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
    nodes = ", ".join(f"{count} on {provider}" for provider, count in fact.nodes.items())
    notes = (f"Ran elsewhere: {', '.join(fact.elsewhere)}",) if fact.elsewhere else ()
    title = f"{fact.model} on {fact.provider}: {nodes}"
    return Table(title=title, columns=("operator", "type", "nodes"), rows=rows, notes=notes, left=(0, 1))


def _name_range(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.4g} … {bounds[1]:.4g}"


def _read_plotly() -> str:
    from plotly.offline import get_plotlyjs

    text: str = get_plotlyjs()
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _embed(value: Any) -> Markup:
    """JSON for a data block of the page: nothing in it can end the block, whatever a name holds."""
    text = encode_result(value).decode()
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)


def _shorten_all(plain: Any) -> Any:
    """The same facts with names that somebody can read: a page is no place for one of megabytes."""
    if isinstance(plain, str):
        return shorten(plain, 1000)
    if isinstance(plain, dict):
        return {shorten(key, 1000): _shorten_all(value) for key, value in plain.items()}
    return [_shorten_all(value) for value in plain] if isinstance(plain, list) else plain
