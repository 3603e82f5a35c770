"""Figures of a sweep: quality against time and memory with the front, and multiply-adds against measured time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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
from mbdeploy.stages.reporting.sweep_tables import name_place
from mbdeploy.stages.reporting.sweeps import SweepFacts
from mbdeploy.swept import Row, read_quality
from mbdeploy.swept import name_place as find_place

_QUALITIES = {"top1": ("top-1 on labelled images, %", 100.0), "sqnr_db": ("SQNR of the outputs, dB", 1.0)}
_ACROSS: tuple[tuple[str, str, Callable[[Row], float]], ...] = (
    ("time", "time for an image, ms", lambda row: to_ms(row.latency_ns)),
    ("memory", "peak memory, MB", lambda row: row.peak_bytes / 1e6),
)
#: With more names than this nobody could read them; each point says its own when it is pointed at.
_MOST_NAMES = 8


def draw_fronts(number: int, facts: SweepFacts) -> Iterator[Chart]:
    """Of each place two charts: quality against time, and against memory; the area of a point is its file's size."""
    title, factor = _QUALITIES[facts.quality]
    for place, rows in enumerate(_group(facts)):
        drawn = [row for row in rows if math.isfinite(read_quality(row, facts.quality))]
        equal = len(rows) - len(drawn)
        notes = (f"{equal} of {len(rows)} files have no finite quality, and are not drawn.",) if equal else ()
        for word, across, read in _ACROSS:
            yield Chart(
                name=f"front-{number}-{place}-{word}",
                label=f"{title} against {across}; the same numbers are in the table below",
                data=list(_draw_points(drawn, facts, read, factor)),
                layout=lay_out(
                    xaxis={
                        "title": {"text": f"{across}, on {name_place(rows[0], facts)}"},
                        "range": _span([read(row) for row in drawn], word == "time"),
                    },
                    yaxis={"title": {"text": title}},
                    legend=LEGEND_ABOVE,
                ),
                height=340,
                notes=notes,
            )


def draw_macs(number: int, facts: SweepFacts) -> Iterator[Chart]:
    """Of each place measured time against multiply-adds, and a line between the pair that they mislead most about."""
    recipes = _list_recipes(facts)
    for place, rows in enumerate(_group(facts)):
        if len({row.macs for row in rows}) < 2:
            continue
        data = [
            _draw_macs(recipe, style, [row for row in rows if row.recipe == recipe])
            for style, recipe in enumerate(recipes)
        ]
        for one in facts.misled:
            if one.wrong and find_place(one) == find_place(rows[0]):
                named = {row.variant: row for row in rows if row.recipe == one.recipe}
                ends = (named[one.fewer], named[one.more])
                data.append(
                    {
                        "type": "scatter",
                        "mode": "lines",
                        "x": [row.macs / 1e6 for row in ends],
                        "y": [to_ms(row.latency_ns) for row in ends],
                        "line": {"color": color(recipes.index(one.recipe)), "width": 1.5, "dash": "dot"},
                        "hoverinfo": "skip",
                        "showlegend": False,
                    }
                )
        yield Chart(
            name=f"macs-{number}-{place}",
            label="Measured time against multiply-adds; the same numbers are in the table above",
            data=data,
            layout=lay_out(
                xaxis={"title": {"text": "million multiply-adds (MACs) an image"}},
                yaxis={
                    "title": {"text": f"ms, on {name_place(rows[0], facts)}"},
                    "rangemode": "tozero",
                },
                legend=LEGEND_ABOVE,
            ),
            height=320,
        )


def _draw_points(
    rows: Sequence[Row], facts: SweepFacts, read: Callable[[Row], float], factor: float
) -> Iterator[dict[str, Any]]:
    """Two traces a recipe: filled symbols for what is on the front, open ones for the rest."""
    named = sum(row.on_front for row in rows) <= _MOST_NAMES
    for style, recipe in enumerate(_list_recipes(facts)):
        for on_front in (True, False):
            chosen = [row for row in rows if (row.recipe, row.on_front) == (recipe, on_front)]
            if not chosen:
                continue
            points: dict[str, Any] = {
                "type": "scatter",
                "mode": "markers+text" if named and on_front else "markers",
                "name": shorten(f"{recipe}, on the front" if on_front else recipe, 60),
                "x": [read(row) for row in chosen],
                "y": [factor * read_quality(row, facts.quality) for row in chosen],
                "text": [shorten(row.variant, 40) for row in chosen],
                "textposition": "middle right",
                "cliponaxis": False,
                "marker": {
                    "size": [8 + 4 * math.sqrt(row.size_bytes / 1e6) for row in chosen],
                    "color": color(style),
                    "symbol": symbol(style) if on_front else f"{symbol(style)}-open",
                    "opacity": 0.85,
                },
                "customdata": [[row.size_bytes / 1e6, row.peak_bytes / 1e6, to_ms(row.latency_ns)] for row in chosen],
                "hovertemplate": "%{text}<br>%{customdata[2]:.2f} ms, %{y:.2f}, file %{customdata[0]:.2f} MB, "
                "peak %{customdata[1]:.1f} MB",
            }
            intervals = [row.top1 for row in chosen if row.top1 is not None]
            if facts.quality == "top1":
                points["error_y"] = draw_intervals(intervals, color(style), factor)
            yield points


def _draw_macs(recipe: str, style: int, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": shorten(recipe, 60),
        "x": [row.macs / 1e6 for row in rows],
        "y": [to_ms(row.latency_ns) for row in rows],
        "text": [shorten(row.variant, 40) for row in rows],
        "marker": {"size": 10, "color": color(style), "symbol": symbol(style), "opacity": 0.85},
        "hovertemplate": "%{text}<br>%{x:.1f} MMACs, %{y:.2f} ms",
    }


def _group(facts: SweepFacts) -> list[list[Row]]:
    """The rows of each place, in the order of appearance."""
    groups: dict[tuple[int, str, int], list[Row]] = {}
    for row in facts.rows:
        groups.setdefault(find_place(row), []).append(row)
    return list(groups.values())


def _list_recipes(facts: SweepFacts) -> list[str]:
    return list(dict.fromkeys(row.recipe for row in facts.rows))


def _span(values: Sequence[float], from_zero: bool) -> list[float]:
    """From zero, or from somewhat below the least, to where the name of the last point has room."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    start = 0.0 if from_zero else max(0.0, low - 0.1 * (high - low or high))
    return [start, high + 0.3 * (high - start or 1.0)]
