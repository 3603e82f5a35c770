"""The geometry of the inspection page: treemap, lanes, curves and points, as plain numbers for an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class Box(msgspec.Struct, frozen=True, kw_only=True):
    """A rectangle in SVG units and the index of the value it stands for."""

    index: int
    x: float
    y: float
    width: float
    height: float


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """A logarithmic axis from ``low`` to ``high`` over ``length`` units, with its ticks as (place, value)."""

    low: float
    high: float
    length: float

    def place(self, value: float) -> float:
        """Where a value lies, in units from the start."""
        span = math.log(self.high / self.low) or 1.0
        return self.length * math.log(max(value, self.low) / self.low) / span

    @property
    def ticks(self) -> list[tuple[float, float]]:
        """Powers of ten inside the axis, with 2 and 5 times these where it spans less than two of them."""
        steps = (1, 2, 5) if self.high < 100 * self.low else (1,)
        first, last = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
        return [(self.place(value), value) for value in values if self.low <= value <= self.high]


def make_treemap(values: Sequence[float], width: float, height: float) -> list[Box]:
    """Rectangles whose areas are as the values, as square as may be; zero values get none.

    Source: Bruls, Huizing and van Wijk, "Squarified Treemaps" (2000).
    """
    order = sorted((index for index, value in enumerate(values) if value > 0), key=lambda index: -values[index])
    total = sum(values[index] for index in order)
    boxes: list[Box] = []
    x = y = 0.0
    while order:
        scale = (width - x) * (height - y) / sum(values[index] for index in order) if total else 0.0
        side = min(width - x, height - y)
        count = 1
        while count < len(order) and _worst(values, order[: count + 1], scale, side) <= _worst(
            values, order[:count], scale, side
        ):
            count += 1
        row, order = order[:count], order[count:]
        depth = sum(values[index] for index in row) * scale / side if side else 0.0
        along = 0.0
        for index in row:
            length = values[index] * scale / depth if depth else 0.0
            if width - x >= height - y:
                boxes.append(Box(index=index, x=x, y=y + along, width=depth, height=length))
            else:
                boxes.append(Box(index=index, x=x + along, y=y, width=length, height=depth))
            along += length
        if width - x >= height - y:
            x += depth
        else:
            y += depth
    return boxes


def make_lane(values: Sequence[float], width: float, height: float) -> list[Box]:
    """One bar a value, side by side from left to right, the tallest of full height; zero values get none."""
    largest = max(values, default=0.0) or 1.0
    step = width / max(1, len(values))
    gap = min(1.0, step * 0.15)
    return [
        Box(
            index=index,
            x=index * step,
            y=height - height * value / largest,
            width=step - gap,
            height=height * value / largest,
        )
        for index, value in enumerate(values)
        if value > 0
    ]


def _worst(values: Sequence[float], row: Sequence[int], scale: float, side: float) -> float:
    """The largest ratio of sides in a row of areas laid along ``side``."""
    areas = [values[index] * scale for index in row]
    total = sum(areas)
    if not total or not side:
        return math.inf
    return max(max(side * side * area / total**2, total**2 / (side * side * area)) for area in areas)
