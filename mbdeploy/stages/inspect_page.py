"""An inspection as one HTML page: no script, no request, light and dark, fit to print."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from markupsafe import Markup

from mbdeploy.costs.report import KINDS, InspectReport, LayerCost, Roofline, Sweep
from mbdeploy.stages import inspect_tables
from mbdeploy.stages.inspect_charts import Axis, Box, make_lane, make_treemap
from mbdeploy.stages.pages import escape_value, open_template

#: More rows or boxes than this would make the page large and nobody read them; the rest is in the JSON.
_MOST_ROWS = 400
_MOST_EVIDENCE = 5
_MOST_FOLDED = 40
_WIDTH = 1000.0
_MAP_WIDTH, _MAP_HEIGHT = 490.0, 300.0
_LANE_HEIGHT = 90.0
_PLOT = (440.0, 260.0)
_LETTER = 6.4
_SLUGS = {kind: f"k{index}" for index, kind in enumerate(KINDS)}


def render_page(report: InspectReport) -> str:
    """The whole page. Names from the model are escaped, control characters shown as such."""
    template = open_template(
        "inspect.html",
        mega=inspect_tables.mega,
        kilo=_kilo,
        megabytes=inspect_tables.megabytes,
        join_axes=inspect_tables.join_axes,
        describe_kernel=inspect_tables.describe_kernel,
        slugs=_SLUGS,
        fit=fit_text,
        label=label_layer,
        mark_code=mark_code,
    )
    shown = [layer for layer in report.layers if layer.macs or layer.bytes_fp32]
    page: str = template.render(
        report=report,
        facts=list(inspect_tables.list_facts(report)),
        described=inspect_tables.describe_input(report),
        counted=inspect_tables.COUNTED,
        cards=_list_cards(report),
        treemaps=[
            ("Multiply-adds", _draw_treemap(shown, lambda layer: layer.macs, inspect_tables.mega)),
            ("Parameters", _draw_treemap(shown, lambda layer: layer.parameters, _kilo)),
        ],
        shares=_list_shares(report),
        lanes=_draw_lanes(report),
        rows=shown[:_MOST_ROWS],
        hidden=max(0, len(shown) - _MOST_ROWS),
        evidence=(_MOST_EVIDENCE, _MOST_EVIDENCE + _MOST_FOLDED),
        roofline=None if report.roofline is None else _draw_roofline(report, report.roofline),
        sweep=None if report.sweep is None else _draw_sweep(report.sweep),
        map_size=(_MAP_WIDTH, _MAP_HEIGHT),
        lane_height=_LANE_HEIGHT,
        width=_WIDTH,
        plot=_PLOT,
    )
    return page.rstrip("\n")


def fit_text(text: str, width: float) -> str:
    """The text if it fits into ``width`` units, or nothing."""
    return text if len(text) * _LETTER + 8 <= width else ""


def label_layer(layer: LayerCost) -> str:
    """A layer in a few letters: its channels in and out, or its operator."""
    if layer.macs and layer.inputs and len(layer.inputs[0]) > 1 and len(layer.output) > 1:
        return f"{layer.inputs[0][1]}→{layer.output[1]}"
    return layer.operator


def mark_code(text: str) -> Markup:
    """Text of ours in which `backticks` become code."""
    parts = [Markup.escape(escape_value(part)) for part in text.split("`")]
    return Markup("").join(Markup(f"<code>{part}</code>") if index % 2 else part for index, part in enumerate(parts))


def _list_cards(report: InspectReport) -> list[tuple[str, str, str]]:
    total, memory = report.total, report.memory
    return [
        ("multiply-adds", inspect_tables.mega(total.macs, 1), f"{total.macs / max(1, total.bytes_fp32):.1f} a byte"),
        ("parameters", inspect_tables.mega(total.parameters), f"{inspect_tables.mega(total.weights)} weights"),
        (
            "peak activations, int8",
            inspect_tables.megabytes(memory.int8_bytes),
            f"{inspect_tables.megabytes(memory.fp32_bytes)} in fp32",
        ),
        (
            "bytes moved, int8",
            inspect_tables.megabytes(total.bytes_int8),
            f"{inspect_tables.megabytes(total.bytes_fp32)} in fp32",
        ),
    ]


def _kilo(count: float) -> str:
    return f"{count / 1e3:.1f} k" if count < 1e6 else inspect_tables.mega(count)


def _draw_treemap(
    layers: Sequence[LayerCost], value: Callable[[LayerCost], int], show: Callable[[float], str]
) -> list[tuple[Box, LayerCost, str]]:
    values = [float(value(layer)) for layer in layers]
    largest = sorted(range(len(values)), key=lambda index: -values[index])[:_MOST_ROWS]
    kept = [0.0] * len(values)
    for index in largest:
        kept[index] = values[index]
    total = sum(values) or 1.0
    return [
        (box, layers[box.index], f"{show(kept[box.index])} ({kept[box.index] / total:.1%})")
        for box in make_treemap(kept, _MAP_WIDTH, _MAP_HEIGHT)
    ]


def _list_shares(report: InspectReport) -> list[tuple[str, list[tuple[str, float]]]]:
    """What share of three sums each kind of work has, in per cent."""
    rows = (
        ("multiply-adds", [kind.macs for kind in report.kinds]),
        ("weights", [kind.weights for kind in report.kinds]),
        ("bytes in fp32", [kind.bytes_fp32 for kind in report.kinds]),
    )
    shares = []
    for title, values in rows:
        total = sum(values) or 1
        named = zip(report.kinds, values, strict=True)
        shares.append((title, [(kind.kind, 100 * value / total) for kind, value in named if value]))
    return shares


def _draw_lanes(report: InspectReport) -> list[tuple[str, str, list[tuple[Box, LayerCost, str]]]]:
    layers = [layer for layer in report.layers if not layer.fused]
    lanes: tuple[tuple[str, list[int], Callable[[float], str]], ...] = (
        ("multiply-adds", [layer.macs for layer in layers], inspect_tables.mega),
        ("parameters", [layer.parameters for layer in layers], _kilo),
        ("activations alive, int8", [layer.live_int8_bytes for layer in layers], inspect_tables.megabytes),
    )
    drawn = []
    for title, values, show in lanes:
        picked = _pick_largest(values)
        boxes = make_lane([float(values[index]) for index in picked], _WIDTH, _LANE_HEIGHT)
        named = [(box, layers[picked[box.index]], show(values[picked[box.index]])) for box in boxes]
        drawn.append((title, show(max(values, default=0)), named))
    return drawn


def _pick_largest(values: Sequence[int]) -> list[int]:
    """Every index if they are few, else the index of the largest of each run of neighbours."""
    step = -(-len(values) // _MOST_ROWS) or 1
    runs = (range(start, min(start + step, len(values))) for start in range(0, len(values), step))
    return [max(run, key=lambda index: values[index]) for run in runs]


def _draw_sweep(sweep: Sweep) -> dict[str, Any]:
    """MACs over the size of the input, one curve a width multiplier, on logarithmic axes."""
    sizes = sorted({cell.size for cell in sweep.cells})
    alphas = sorted({cell.alpha for cell in sweep.cells})
    macs = {(cell.alpha, cell.size): cell.macs for cell in sweep.cells}
    x = Axis(low=sizes[0] * 0.95, high=sizes[-1] * 1.05, length=_PLOT[0])
    y = Axis(low=min(macs.values()) * 0.8, high=max(macs.values()) * 1.25, length=_PLOT[1])
    curves = [
        (alpha, [(x.place(size), _PLOT[1] - y.place(macs[alpha, size]), macs[alpha, size]) for size in sizes])
        for alpha in alphas
    ]
    return {
        "sweep": sweep,
        "sizes": [(x.place(size), size) for size in sizes],
        "ticks": [(_PLOT[1] - place, value) for place, value in y.ticks],
        "curves": curves,
        "weights": {cell.alpha: cell.weights for cell in sweep.cells},
        "macs": macs,
    }


def _draw_roofline(report: InspectReport, roofline: Roofline) -> dict[str, Any]:
    """Every multiplying layer at its intensity, as fast as its bound lets it be, below the measured roof."""
    by_name = {layer.name: layer for layer in report.layers}
    is_int8 = roofline.precision == "int8"
    points = []
    for bound in roofline.bounds:
        layer = by_name[bound.layer]
        if layer.macs:
            intensity = layer.intensity_int8 if is_int8 else layer.intensity_fp32
            points.append((intensity, layer.macs / bound.limit_us / 1e3, layer, bound))
    gmacs = roofline.peaks.gmacs_int8 if is_int8 else roofline.peaks.gmacs_fp32
    slowest = min(gbytes for _, gbytes in roofline.peaks.gbytes)
    lows = [intensity for intensity, *_ in points] or [1.0]
    x = Axis(low=min(lows) * 0.7, high=max([*lows, gmacs / slowest]) * 1.5, length=_PLOT[0])
    y = Axis(low=min([speed for _, speed, *_ in points] or [1.0]) * 0.6, high=gmacs * 1.6, length=_PLOT[1])
    place = partial(_place, x, y)
    return {
        "roofline": roofline,
        "gmacs": gmacs,
        "points": [(*place(intensity, speed), layer, bound) for intensity, speed, layer, bound in points],
        "roof": [place(x.low, slowest * x.low), place(gmacs / slowest, gmacs), place(x.high, gmacs)],
        "x_ticks": x.ticks,
        "y_ticks": [(_PLOT[1] - at, value) for at, value in y.ticks],
        "total_us": sum(bound.limit_us for bound in roofline.bounds),
        "slowest": sorted(roofline.bounds, key=lambda bound: bound.limit_us, reverse=True)[:12],
    }


def _place(x: Axis, y: Axis, intensity: float, speed: float) -> tuple[float, float]:
    return x.place(intensity), _PLOT[1] - y.place(speed)
