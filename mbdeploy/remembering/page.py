"""A history as one HTML page that needs nothing else: a chart a metric over time, and the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.remembering.history import History, Line, Point
from mbdeploy.remembering.metrics import METRICS, Metric
from mbdeploy.remembering.tables import COLUMNS, group_lines, list_rows, name_group, tabulate_history
from mbdeploy.stages.reporting.chart import LEGEND_ABOVE, Chart, color, draw_intervals, lay_out, symbol
from mbdeploy.stages.reporting.frame import render_frame
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.tables import Table


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What the page says of one model in one place."""

    name: str
    charts: list[Chart]
    table: Table


def render_page(found: History) -> str:
    """The whole page; the numbers are those of the JSON, which is in it, too."""
    groups = [
        Group(
            name=name_group(lines[0], found),
            charts=list(_draw(number, lines)),
            table=Table(title="Every run", columns=COLUMNS, rows=tuple(list_rows(lines, repeat=True)), left=(0, 1, 2)),
        )
        for number, lines in enumerate(group_lines(found))
    ]
    return render_frame(
        "history.html",
        title=f"History of {shorten(found.model) if found.model else 'all models'}",
        charts=[chart for group in groups for chart in group.charts],
        facts=found,
        command="history",
        note=found.note,
        groups=groups,
        hosts=tabulate_history(found)[-1],
    )


def _draw(number: int, lines: Sequence[Line]) -> Iterator[Chart]:
    for name, metric in METRICS.items():
        chosen = [line for line in lines if line.metric == name]
        data = [trace for style, line in enumerate(chosen) if (trace := _draw_line(line, metric, style))["x"]]
        if metric.drawn and data:
            yield Chart(
                name=f"history-{number}-{name}",
                label=f"{metric.title} over time; the same numbers are in the table below",
                data=data,
                layout=lay_out(
                    xaxis={"title": {"text": "UTC"}, "type": "date"},
                    yaxis={"title": {"text": metric.title}},
                    legend=LEGEND_ABOVE,
                ),
                height=260,
            )


def _draw_line(line: Line, metric: Metric, style: int) -> dict[str, Any]:
    """One trace; an open symbol is dated by when it was added."""
    points = [point for point in line.points if math.isfinite(point.value)]
    name = f"{line.variant} ({line.recipe})" if line.recipe and line.recipe != line.variant else line.variant
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": shorten(f"{name}: {line.basis}" if line.basis else name, 60),
        "x": [point.when_utc[:19].replace("T", " ") for point in points],
        "y": [metric.factor * point.value for point in points],
        "text": [f"{point.sha256[:8]}, mbdeploy {point.mbdeploy or 'unknown'}" for point in points],
        "marker": {
            "size": 9,
            "color": color(style),
            "symbol": [symbol(style) + "-open" * (point.dated == "added") for point in points],
        },
        "line": {"color": color(style), "width": 1.5},
        "hovertemplate": f"%{{x}}<br>%{{y:.{metric.decimals + 1}f}}<br>%{{text}}",
    }
    intervals = [found for point in points if (found := _read_interval(point)) is not None]
    if intervals and len(intervals) == len(points):
        trace["error_y"] = draw_intervals(intervals, color(style), metric.factor)
    return trace


def _read_interval(point: Point) -> Interval | None:
    if point.low is None or point.high is None or not (math.isfinite(point.low) and math.isfinite(point.high)):
        return None
    return Interval(value=point.value, low=point.low, high=point.high, n=point.n or 0, confidence=0.95)
