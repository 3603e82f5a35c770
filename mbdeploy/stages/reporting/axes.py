"""Axes of a figure: where values, dates and categories lie, and which round ones are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec

from mbdeploy.stages.reporting.chart import Chart

WIDTH = 1040.0
LETTER = 6.7  # the mean width of a letter at 12 px
_TICKS = 6
_DAY_S = 86400
_STEPS_S = (60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, _DAY_S, 2 * _DAY_S, 7 * _DAY_S, 14 * _DAY_S, 30 * _DAY_S)


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """Values from ``low`` to ``high``, or ``categories`` at equal distances, over pixels from ``start`` to ``end``.

    With ``dates`` the values are seconds since 1970 (UTC), and what is placed are dates in words.
    """

    start: float
    end: float
    low: float = 0.0
    high: float = 1.0
    categories: tuple[str, ...] = ()
    dates: bool = False

    def place(self, value: Any) -> float:
        """Where a value, a date or a category lies, in pixels."""
        if self.dates:
            value = read_date(value)
        share = (
            (self.categories.index(value) + 0.5) / len(self.categories)
            if self.categories
            else (value - self.low) / (self.high - self.low)
        )
        return self.start + share * (self.end - self.start)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places and what is written there."""
        if self.categories:
            return [(self.place(name), name) for name in self.categories]
        if self.dates:
            step, dates = choose_dates(self.low, self.high)
            return [(self.place(date), date[:10] if step % _DAY_S == 0 else date[5:16]) for date in dates]
        return [(self.place(value), f"{value:.10g}") for value in choose_ticks(self.low, self.high)]


def choose_ticks(low: float, high: float) -> list[float]:
    """About ``_TICKS`` round numbers from low to high: 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]


def read_date(date: str) -> float:
    """A date such as 2026-01-31 12:00:00 as seconds since 1970."""
    return datetime.fromisoformat(date).replace(tzinfo=timezone.utc).timestamp()


def choose_dates(low: float, high: float) -> tuple[int, list[str]]:
    """At most ``_TICKS`` dates from low to high, and the seconds between them: minutes, hours or whole days."""
    step = next((step for step in _STEPS_S if (high - low) / step <= _TICKS), 0)
    step = step or _DAY_S * math.ceil((high - low) / _TICKS / _DAY_S)
    ticks = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    return step, [datetime.fromtimestamp(tick, timezone.utc).strftime("%Y-%m-%d %H:%M:%S") for tick in ticks]


def make_axes(chart: Chart) -> dict[str, Axis]:
    """The axes "x", "y" and, if the layout has one, "x2", with room for everything that is drawn."""
    top, bottom = float(chart.layout["margin"]["t"]), chart.height - 48.0
    rows = [name for trace in chart.data for name in trace.get("y", ()) if isinstance(name, str)]
    left = min(0.4 * WIDTH, max((len(row) for row in rows), default=0) * LETTER + 16) if rows else 64.0
    axes = {"y": _make_axis(chart, "y", bottom, top)}
    for name in ("x", "x2"):
        if name == "x" or "xaxis2" in chart.layout:
            first, last = chart.layout.get("xaxis" + name[1:], {}).get("domain", (0, 1))
            width = WIDTH - left - 20
            axes[name] = _make_axis(chart, name, left + first * width, left + last * width)
    return axes


def _make_axis(chart: Chart, name: str, start: float, end: float) -> Axis:
    asked = chart.layout.get(f"{name[0]}axis{name[1:]}", {})
    values = [*_list_values(chart, name)]
    if asked.get("type") == "date":
        places = [read_date(value) for value in values]
        margin = max(0.04 * (max(places) - min(places)), 60.0)
        return Axis(start=start, end=end, low=min(places) - margin, high=max(places) + margin, dates=True)
    names = tuple(dict.fromkeys(value for value in values if isinstance(value, str)))
    if names:
        return Axis(start=start, end=end, categories=names)
    if "range" in asked:
        low, high = asked["range"]
        return Axis(start=start, end=end, low=low, high=high)
    low, high = min(values, default=0.0), max(values, default=1.0)
    margin = 0.06 * ((high - low) or abs(high) or 1.0)
    floor = min(0.0, low) if asked.get("rangemode") == "tozero" or name == "x" else low - margin
    return Axis(start=start, end=end, low=floor, high=high + margin)


def _list_values(chart: Chart, name: str) -> Iterator[Any]:
    """Everything that an axis must have room for: values, ends of bars and of intervals, lines across."""
    side = name[0]
    for trace in chart.data:
        if side == "x" and trace.get("xaxis", "x") != name:
            continue
        values = [trace["x0"]] if side == "x" and "x0" in trace else trace.get(side, ())
        if side == "y" and "base" in trace:
            yield from trace["base"]
            yield from (base + value for base, value in zip(trace["base"], values, strict=True))
            continue
        yield from values
        if error := trace.get(f"error_{side}"):
            yield from (value + more for value, more in zip(values, error["array"], strict=True))
            yield from (value - less for value, less in zip(values, error["arrayminus"], strict=True))
    if name == "x":
        yield from (shape["x0"] for shape in chart.layout.get("shapes", ()))
