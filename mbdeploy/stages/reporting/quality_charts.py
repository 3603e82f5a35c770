"""Figures of quality against time: every variant as a point, and the front through those that no other beats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from mbdeploy.stages.reporting.chart import (
    LEGEND_ABOVE,
    Chart,
    color,
    draw_intervals,
    lay_out,
    symbol,
    to_ms,
)
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.reporting.tables import name_host
from mbdeploy.stages.reporting.variants import Field, Variant, read_quality

_QUALITIES = {
    "top-1": ("top-1 on labelled images, %", 100.0),
    "same class": ("images with the reference's best class, %", 100.0),
    "SQNR": ("SQNR of the outputs, dB", 1.0),
}


def draw_pareto(variants: Sequence[Variant], fields: Sequence[Field]) -> Iterator[Chart]:
    """Quality against time, area as size on disk: one chart a measure of quality, one colour a field."""
    several, unlike = (len({getattr(variant, name) for variant in variants}) > 1 for name in ("report", "host"))
    for number, quality in enumerate(dict.fromkeys(field.quality for field in fields)):
        title, factor = _QUALITIES[quality]
        data: list[dict[str, Any]] = []
        for style, field in enumerate(field for field in fields if field.quality == quality):
            drawn = [index for index in field.members if math.isfinite(read_quality(variants[index])[1])]
            data.append(
                _draw_points(
                    variants,
                    drawn,
                    f"{field.title} (host {name_host(field.host)})" if unlike else field.title,
                    style,
                    factor,
                    several,
                )
            )
            front = sorted((variants[index].p50_ns or 0, index) for index in field.best if index in drawn)
            if len(front) > 1:
                data.append(_draw_front(variants, [index for _, index in front], style, factor))
        slowest = max((time for trace in data for time in trace["x"]), default=1.0)
        yield Chart(
            name=f"pareto-{number}",
            label=f"{title} against the median time of every variant; the same numbers are in the table below",
            data=data,
            layout=lay_out(
                xaxis={
                    "title": {"text": "median wall clock of an inference, ms"},
                    "range": [0, (1.3 if several else 1.15) * slowest],
                },
                yaxis={"title": {"text": title}},
                legend=LEGEND_ABOVE,
            ),
            height=380,
        )


def _draw_points(
    variants: Sequence[Variant], members: Sequence[int], name: str, style: int, factor: float, several: bool
) -> dict[str, Any]:
    chosen = [variants[index] for index in members]
    qualities = [read_quality(variant)[1] for variant in chosen]
    points: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers+text",
        "name": shorten(name),
        "x": [to_ms(variant.p50_ns or 0) for variant in chosen],
        "y": [factor * quality for quality in qualities],
        "text": [shorten(f"{variant.model} {variant.file}" if several else variant.file, 40) for variant in chosen],
        "textposition": "middle right",
        "cliponaxis": False,
        "marker": {
            "size": [8 + 4 * math.sqrt((variant.size_bytes or 0) / 1e6) for variant in chosen],
            "color": color(style),
            "symbol": symbol(style),
            "opacity": 0.85,
        },
        "customdata": [
            [(variant.size_bytes or 0) / 1e6, index] for index, variant in zip(members, chosen, strict=True)
        ],
        "hovertemplate": "%{text}<br>%{x:.2f} ms, %{y:.2f}, %{customdata[0]:.2f} MB<extra></extra>",
    }
    intervals = [variant.top1 for variant in chosen if variant.top1 is not None]
    if len(intervals) == len(chosen):
        points["error_y"] = draw_intervals(intervals, color(style), factor)
    return points


def _draw_front(variants: Sequence[Variant], members: Sequence[int], style: int, factor: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [to_ms(variants[index].p50_ns or 0) for index in members],
        "y": [factor * read_quality(variants[index])[1] for index in members],
        "line": {"color": color(style), "width": 1.5, "dash": "dot"},
        "hoverinfo": "skip",
        "showlegend": False,
    }
