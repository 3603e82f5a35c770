"""Figures of time: raw samples, paired ratios with their intervals, and sweeps over threads and batch sizes."""

from __future__ import annotations

import math
from typing import Any

from mbdeploy.derive import read_times
from mbdeploy.results import BenchRun
from mbdeploy.stages.facts import LatencyFacts
from mbdeploy.stages.reporting.chart import (
    COLORS,
    LEGEND_ABOVE,
    Chart,
    color,
    draw_intervals,
    lay_out,
    line_at,
    symbol,
    to_ms,
)
from mbdeploy.stages.reporting.facts import Report
from mbdeploy.stages.reporting.names import shorten

#: More points than this are slow to draw and to print, and nobody could tell them apart.
_MOST_POINTS = 1500


def draw_latency(number: str, run: BenchRun, facts: LatencyFacts) -> Chart:
    """Raw wall-clock samples of one run in the order in which they were taken, and their distribution beside."""
    data: list[dict[str, Any]] = []
    notes = []
    named = [*zip(run.series, facts.models, strict=True)]
    for style, (series, fact) in enumerate(named):
        times = [to_ms(time) for time in read_times(series, "wall")]
        if not times:
            continue
        step = -(-len(times) // _MOST_POINTS)
        if step > 1:
            notes.append(f"{fact.model}: every {step}th of {len(times)} samples is drawn; the boxes are of all.")
        common = {"name": shorten(fact.model), "legendgroup": str(style)}
        data.append(
            {
                **common,
                "type": "scatter",
                "mode": "markers",
                "x": list(range(0, len(times), step)),
                "y": times[::step],
                "marker": {"color": color(style), "symbol": symbol(style), "size": 4, "opacity": 0.65},
                "hovertemplate": "%{y:.3f} ms, sample %{x}",
            }
        )
        data.append(
            {
                **common,
                "type": "box",
                "y": times,
                "x0": shorten(fact.model),
                "xaxis": "x2",
                "boxpoints": False,
                "quartilemethod": "inclusive",
                "marker": {"color": color(style)},
                "line": {"width": 1.5},
                "showlegend": False,
                "hoverinfo": "y",
            }
        )
    return Chart(
        name=f"latency-{number}",
        label="Wall clock of every inference, in order and as boxes; percentiles are in the table below",
        data=data,
        layout=lay_out(
            xaxis={"title": {"text": "sample, in the order taken"}, "domain": [0, 0.7]},
            xaxis2={"domain": [0.74, 1], "anchor": "y"},
            yaxis={"title": {"text": "wall clock, ms"}, "rangemode": "tozero"},
            legend=LEGEND_ABOVE,
            shapes=[line_at(place, "dot") for place in _find_changes(run)],
        ),
        height=340,
        notes=tuple(notes),
    )


def draw_sweep(number: int, report: Report) -> Chart | None:
    """Throughput over threads and batch sizes, one line a model and provider; None where nothing was swept."""
    lines: dict[tuple[str, str], list[tuple[str, float, float]]] = {}
    for facts in report.latency:
        for fact in facts.models:
            if fact.wall.images_per_s is not None and fact.wall.p50_ns is not None:
                place = f"{fact.threads} × {fact.batch_size}"
                point = (place, fact.wall.images_per_s, to_ms(fact.wall.p50_ns))
                lines.setdefault((fact.model, fact.provider), []).append(point)
    if not any(len(points) > 1 for points in lines.values()):
        return None
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": shorten(f"{model} on {provider}"),
            "x": [place for place, *_ in points],
            "y": [images for _, images, _ in points],
            "customdata": [time for *_, time in points],
            "marker": {"size": 9, "color": color(style), "symbol": symbol(style)},
            "line": {"width": 1.5},
            "hovertemplate": "%{x}: %{y:.1f} images/s, median %{customdata:.2f} ms",
        }
        for style, ((model, provider), points) in enumerate(lines.items())
    ]
    return Chart(
        name=f"sweep-{number}",
        label="Images a second over threads and batch sizes; the same numbers are in the tables below",
        data=data,
        layout=lay_out(
            xaxis={"title": {"text": "threads × batch size"}, "type": "category"},
            yaxis={"title": {"text": "images/s at the median"}, "rangemode": "tozero"},
            legend=LEGEND_ABOVE,
        ),
        height=320,
    )


def draw_ratios(number: int, report: Report) -> Chart | None:
    """Every paired ratio with its interval, and the A/A control of its run."""
    rows: list[tuple[str, Any, int]] = []
    for facts in report.latency:
        first = facts.models[0]
        where = f"{first.provider}, {first.threads} thread{'s' if first.threads > 1 else ''}, batch {first.batch_size}"
        rows.append((f"{first.model} again (A/A), {where}", facts.control, 1))
        rows += [(f"{fact.model}, {where}", fact.ratio, 0) for fact in facts.models if fact.ratio is not None]
    rows = [row for row in rows if math.isfinite(row[1].value)]
    if not rows:
        return None
    rows.reverse()  # Plotly counts upwards
    return Chart(
        name=f"ratios-{number}",
        label="Time over the baseline's, with intervals; the same numbers are in the tables below",
        data=[
            {
                "type": "scatter",
                "mode": "markers",
                "x": [interval.value for _, interval, _ in rows],
                "y": [shorten(name) for name, _, _ in rows],
                "error_x": draw_intervals([interval for _, interval, _ in rows], COLORS[5]),
                "marker": {
                    "size": 11,
                    "color": [COLORS[5] if control else COLORS[1] for *_, control in rows],
                    "symbol": ["circle-open" if control else "diamond" for *_, control in rows],
                },
                "customdata": [[interval.low, interval.high, interval.n] for _, interval, _ in rows],
                "hovertemplate": "%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], %{customdata[2]} pairs"
                "<extra></extra>",
                "showlegend": False,
            }
        ],
        layout=lay_out(
            xaxis={"title": {"text": "time over the baseline's (1: as long)"}, "rangemode": "tozero"},
            yaxis={"automargin": True},
            shapes=[line_at(1)],
        ),
        height=110 + 34 * len(rows),
    )


def _find_changes(run: BenchRun) -> list[int]:
    """The samples at which another process went on."""
    taken_by = run.series[0].process
    return [index for index in range(1, len(taken_by)) if taken_by[index] != taken_by[index - 1]]
