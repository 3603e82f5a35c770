"""The figures of the page as SVG, from the same data that Plotly gets: at once there, without a script, and on paper.

Only what our figures use of Plotly's language is understood: scatter, bar and box traces, linear and category axes.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import quantiles
from typing import Any

from markupsafe import Markup

from mbdeploy.stages.reporting.axes import LETTER, WIDTH, Axis, make_axes
from mbdeploy.stages.reporting.chart import COLORS, Chart

#: With more points than this a trace is one path of dots, without a word at each.
_MOST_TITLED = 250
#: The outline of each symbol around the origin, for a size of 2.
_OUTLINES = {
    "circle": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "diamond": "M0-1.3L1.3 0L0 1.3L-1.3 0z",
    "square": "M-.9-.9h1.8v1.8h-1.8z",
    "triangle-up": "M0-1.2L1.1.8h-2.2z",
    "cross": "M-.4-1.1h.8v.7h.7v.8h-.7v.7h-.8v-.7h-.7v-.8h.7z",
    "star": "M0-1.3L.8 1.1L-1.2-.4h2.4L-.8 1.1z",
}


def render_svg(chart: Chart) -> Markup:
    """One figure; every name in it is escaped."""
    axes = make_axes(chart)
    parts = [*_draw_frame(chart, axes)]
    for trace in chart.data:
        x, y = axes[trace.get("xaxis", "x")], axes["y"]
        parts += _TRACES[trace["type"]](trace, x, y)
    return Markup('<svg viewBox="0 0 {:.0f} {}" role="img" aria-label="{}" font-size="12">{}</svg>').format(
        WIDTH, chart.height, chart.label, Markup("").join(parts)
    )


def _draw_frame(chart: Chart, axes: dict[str, Axis]) -> Iterator[Markup]:
    """Grid, ticks, titles, lines across, and the legend."""
    y = axes["y"]
    for name, axis in axes.items():
        for place, label in axis.ticks:
            if name == "y":
                across = " ".join(
                    f"M{other.start:.1f} {place:.1f}H{other.end:.1f}" for key, other in axes.items() if key != "y"
                )
                yield Markup('<path class="grid" d="{}"/>').format(across)
                yield _write(axes["x"].start - 8, place + 4, label, "end")
            else:
                yield Markup('<path class="grid" d="M{:.1f} {:.1f}V{:.1f}"/>').format(place, y.start, y.end)
                yield _write(place, y.start + 18, label)
        title = chart.layout.get(f"{name[0]}axis{name[1:]}", {}).get("title", {}).get("text")
        if title and name == "y":
            middle = (y.start + y.end) / 2
            yield Markup('<text transform="translate(14 {:.1f}) rotate(-90)" text-anchor="middle">{}</text>').format(
                middle, title
            )
        elif title:
            yield _write((axis.start + axis.end) / 2, y.start + 40, title)
    for shape in chart.layout.get("shapes", ()):
        place = axes["x"].place(shape["x0"])
        dash = "1 4" if shape["line"]["dash"] == "dot" else "5 4"
        yield Markup('<path class="mark" stroke-dasharray="{}" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
            dash, place, y.start, y.end
        )
    yield from _draw_legend(chart, axes["x"].start)


def _draw_legend(chart: Chart, left: float) -> Iterator[Markup]:
    for trace in chart.data:
        if "name" in trace and trace.get("showlegend", True):
            yield _draw_symbol(left + 6, 14, 9, _color(trace, 0), _pick(trace["marker"].get("symbol", "square"), 0))
            yield _write(left + 18, 18, trace["name"], "start")
            left += 40 + LETTER * len(trace["name"])


def _draw_scatter(trace: dict[str, Any], x: Axis, y: Axis) -> Iterator[Markup]:
    points = [(x.place(a), y.place(b)) for a, b in zip(trace["x"], trace["y"], strict=True)]
    if "lines" in trace["mode"]:
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in points)
        dash = Markup(' stroke-dasharray="2 3"') if trace["line"].get("dash") == "dot" else ""
        yield Markup('<path fill="none" stroke="{}" stroke-width="1.5"{} d="M{}"/>').format(
            _color(trace, 0), dash, path
        )
    yield from _draw_errors(trace, x, y)
    if "markers" not in trace["mode"]:
        return
    marker = trace["marker"]
    if len(points) > _MOST_TITLED:
        dots = "".join(f"M{a:.1f} {b:.1f}h0" for a, b in points)
        style = Markup('fill="none" stroke="{}" stroke-width="{}" stroke-linecap="round" opacity="{}"')
        yield Markup('<path {} d="{}"/>').format(
            style.format(_color(trace, 0), _pick(marker["size"], 0), marker.get("opacity", 1)), dots
        )
        return
    words = trace.get("text", [""] * len(points))
    for index, (a, b) in enumerate(points):
        said = " ".join(
            str(word) for word in (words[index], _show(trace["x"][index]), _show(trace["y"][index])) if word
        )
        drawn = _draw_symbol(
            a, b, _pick(marker["size"], index), _color(trace, index), _pick(marker.get("symbol", "circle"), index)
        )
        yield Markup("<g><title>{}</title>{}</g>").format(said, drawn)
        if "text" in trace["mode"]:
            yield _write(a + _pick(marker["size"], index) / 2 + 6, b + 4, words[index], "start")


def _draw_errors(trace: dict[str, Any], x: Axis, y: Axis) -> Iterator[Markup]:
    for side in "xy":
        if error := trace.get(f"error_{side}"):
            ends = zip(trace["x"], trace["y"], error["array"], error["arrayminus"], strict=True)
            for a, b, more, less in ends:
                if side == "x":
                    path = f"M{x.place(a - less):.1f} {y.place(b):.1f}H{x.place(a + more):.1f}"
                else:
                    path = f"M{x.place(a):.1f} {y.place(b - less):.1f}V{y.place(b + more):.1f}"
                yield Markup('<path stroke="{}" stroke-width="1.5" d="{}"/>').format(error["color"], path)


def _draw_bars(trace: dict[str, Any], x: Axis, y: Axis) -> Iterator[Markup]:
    half = 0.4 * (x.end - x.start) / (x.high - x.low)
    for index, (a, size, base) in enumerate(zip(trace["x"], trace["y"], trace["base"], strict=True)):
        top, bottom = y.place(base + size), y.place(base)
        shape = Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}"/>').format(
            x.place(a) - half, top, 2 * half, max(0.5, bottom - top), _color(trace, index)
        )
        said = f"{trace['text'][index]}: {_show(base)} to {_show(base + size)}"
        yield Markup("<g><title>{}</title>{}</g>").format(said, shape)


def _draw_box(trace: dict[str, Any], x: Axis, y: Axis) -> Iterator[Markup]:
    values = trace["y"]
    low, middle, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    center, half = x.place(trace["x0"]), min(30.0, 0.3 * (x.end - x.start) / len(x.categories))
    bottom, q1, q2, q3, top = (y.place(value) for value in (min(values), low, middle, high, max(values)))
    left, right = center - half, center + half
    path = (
        f"M{left:.1f} {q1:.1f}H{right:.1f}V{q3:.1f}H{left:.1f}zM{left:.1f} {q2:.1f}H{right:.1f}"
        f"M{center:.1f} {q1:.1f}V{bottom:.1f}M{center:.1f} {q3:.1f}V{top:.1f}"
        f"M{center - half / 2:.1f} {bottom:.1f}h{half:.1f}M{center - half / 2:.1f} {top:.1f}h{half:.1f}"
    )
    ends = f"{_show(min(values))} to {_show(max(values))}"
    said = f"{trace['name']}: median {_show(middle)}, quartiles {_show(low)} and {_show(high)}, {ends}"
    style = Markup('fill="{0}" fill-opacity=".25" stroke="{0}" stroke-width="1.5"').format(_color(trace, 0))
    yield Markup('<g><title>{}</title><path {} d="{}"/></g>').format(said, style, path)


_TRACES = {"scatter": _draw_scatter, "bar": _draw_bars, "box": _draw_box}


def _draw_symbol(x: float, y: float, size: float, color: str, name: str) -> Markup:
    style = Markup('fill="none" stroke="{}" stroke-width=".35"' if name.endswith("-open") else 'fill="{}"').format(
        color
    )
    place = Markup('transform="translate({:.1f} {:.1f}) scale({:.2f})"').format(x, y, size / 2)
    return Markup('<path {} {} d="{}"/>').format(style, place, _OUTLINES[name.removesuffix("-open")])


def _write(x: float, y: float, text: str, anchor: str = "middle") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _color(trace: dict[str, Any], index: int) -> str:
    found: str = _pick(trace.get("marker", {}).get("color") or trace.get("line", {}).get("color") or COLORS[0], index)
    return found


def _pick(value: Any, index: int) -> Any:
    """The value of one point where a style is one for all or one for each."""
    return value[index] if isinstance(value, (list, tuple)) else value


def _show(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
