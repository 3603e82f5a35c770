"""What all figures of the page have in common: data in Plotly's language, colours and symbols."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import msgspec

from mbdeploy.estimate import Interval

#: Distinct for every kind of colour vision and at least 3:1 against both backgrounds; symbols differ as well.
COLORS = ("#3f83e0", "#dd6220", "#17966f", "#b266c4", "#a98009", "#5c7a94")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "star")
LEGEND_ABOVE = {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"}


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """One figure: ``name`` is its id in the page, ``label`` says it in words for who cannot see it."""

    name: str
    label: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int
    notes: tuple[str, ...] = ()


def lay_out(**own: Any) -> dict[str, Any]:
    """A layout with the margins that all figures have; the page adds the rest."""
    return {"margin": {"l": 64, "r": 20, "t": 34, "b": 48}, **own}


def color(style: int) -> str:
    """The colour of the trace of that number."""
    return COLORS[style % len(COLORS)]


def symbol(style: int) -> str:
    """The symbol of the trace of that number."""
    return SYMBOLS[style % len(SYMBOLS)]


def line_at(x: float, dash: str = "dash") -> dict[str, Any]:
    """A vertical line through the whole figure."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": {"dash": dash, "width": 1}}


def draw_intervals(intervals: Sequence[Interval], color: str, factor: float = 1.0) -> dict[str, Any]:
    """The intervals around a trace's values as error bars."""
    return {
        "type": "data",
        "symmetric": False,
        "array": [factor * (interval.high - interval.value) for interval in intervals],
        "arrayminus": [factor * (interval.value - interval.low) for interval in intervals],
        "color": color,
        "thickness": 1,
    }


def to_ms(time_ns: float) -> float:
    """Nanoseconds as milliseconds."""
    return time_ns / 1e6


def escape_for_plotly(value: Any) -> Any:
    """The same data with names escaped: Plotly reads a few tags in text. Templates are ours, and stay."""
    if isinstance(value, str):
        return html.escape(value, quote=False)
    if isinstance(value, dict):
        return {key: one if key == "hovertemplate" else escape_for_plotly(one) for key, one in value.items()}
    return [escape_for_plotly(one) for one in value] if isinstance(value, list) else value
