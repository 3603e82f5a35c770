"""Figures along the network: what quantization left of each layer's output, its range, and what calibration saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mbdeploy.records import LayerRecord
from mbdeploy.stages.bench_explain import ExplainResult
from mbdeploy.stages.layer_facts import CurveFact, LayerFact
from mbdeploy.stages.reporting.chart import COLORS, LEGEND_ABOVE, SYMBOLS, Chart, color, lay_out, symbol
from mbdeploy.stages.reporting.names import shorten


def draw_curve(name: str, curve: CurveFact) -> Chart | None:
    """SQNR of every layer as executed against the float file, along the network; the largest drops stand out."""
    known = [(number, layer) for number, layer in enumerate(curve.layers, start=1) if layer.sqnr_db is not None]
    if not known:
        return None
    marked = [(number, layer) for number, layer in known if layer.marked]
    left_out = len(curve.layers) - len(known)
    place = f"{shorten(curve.model, 40)} on {shorten(curve.provider, 40)}"
    return Chart(
        name=f"curve-{name}",
        label=f"SQNR along the network, {place}; the same numbers are in the table below",
        data=[
            {
                **_trace_layers(f"{place}, all errors up to here", known),
                "mode": "lines+markers",
                "line": {"color": COLORS[2], "width": 1.5},
                "marker": {"size": 6, "symbol": SYMBOLS[0], "color": COLORS[2]},
            },
            {
                **_trace_layers("the largest drops", marked),
                "mode": "markers",
                "marker": {"size": 12, "symbol": SYMBOLS[1], "color": COLORS[1]},
            },
        ][: 2 if marked else 1],
        layout=lay_out(
            xaxis={"title": {"text": "layer, from the input to the output"}, "range": [0.3, len(curve.layers) + 0.7]},
            yaxis={"title": {"text": f"SQNR against {shorten(curve.origin, 20)}, dB"}},
            legend=LEGEND_ABOVE,
        ),
        height=340,
        notes=(f"{left_out} of {len(curve.layers)} layers have no finite SQNR: see the table.",) if left_out else (),
    )


def _trace_layers(name: str, layers: Sequence[tuple[int, LayerFact]]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "name": name,
        "x": [number for number, _ in layers],
        "y": [layer.sqnr_db for _, layer in layers],
        "text": [shorten(f"{layer.operator} {layer.node}") for _, layer in layers],
        "hovertemplate": "%{text}<br>%{y:.2f} dB",
    }


def draw_recovery(number: int, layers: Sequence[LayerRecord]) -> Chart | None:
    """SQNR of each layer's output along the network, with weights rounded to nearest and as chosen."""
    known = [
        (layer.node, *layer.recovered_db)
        for layer in layers
        if layer.recovered_db is not None and all(map(math.isfinite, layer.recovered_db))
    ]
    if not known:
        return None
    names = [shorten(node) for node, *_ in known]
    lines = (("rounded to nearest", 1, 5), ("as in the file", 2, 0))
    return Chart(
        name=f"recovery-{number}",
        label="SQNR of every layer's output along the network; the same numbers are in the table below",
        data=[
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "x": list(range(1, len(known) + 1)),
                "y": [layer[column] for layer in known],
                "text": names,
                "line": {"color": COLORS[shade], "width": 1.5, "dash": "dot" if column == 1 else "solid"},
                "marker": {"size": 6, "symbol": SYMBOLS[column]},
                "hovertemplate": "%{text}<br>%{y:.2f} dB",
            }
            for name, column, shade in lines
        ],
        layout=lay_out(
            xaxis={"title": {"text": "layer, from the input to the output"}, "range": [0.3, len(known) + 0.7]},
            yaxis={"title": {"text": "SQNR of the layer's output, dB"}},
            legend=LEGEND_ABOVE,
        ),
        height=340,
    )


def draw_ranges(number: int, layers: Sequence[LayerRecord]) -> Chart | None:
    """The range that INT8 covers at the output of each layer, as bars that float."""
    if not layers:
        return None
    return Chart(
        name=f"ranges-{number}",
        label="Range of every layer's output; the same numbers are in the table below",
        data=[
            {
                "type": "bar",
                "x": list(range(1, len(layers) + 1)),
                "y": [layer.output_range[1] - layer.output_range[0] for layer in layers],
                "base": [layer.output_range[0] for layer in layers],
                "text": [shorten(layer.node) for layer in layers],
                "textposition": "none",
                "customdata": [list(layer.output_range) for layer in layers],
                "hovertemplate": "%{text}<br>%{customdata[0]:.4g} to %{customdata[1]:.4g}<extra></extra>",
                "marker": {"color": COLORS[0]},
            }
        ],
        layout=lay_out(
            xaxis={"title": {"text": "layer, from the input to the output"}, "range": [0.3, len(layers) + 0.7]},
            yaxis={"title": {"text": "range of the layer's output"}},
            bargap=0.15,
        ),
        height=280,
    )


def draw_times(number: int, found: ExplainResult) -> Chart:
    """Time of each layer in the first file and in the second, in the order of the first; one file alone as it ran."""
    pairs = [(pair.first, pair.second) for pair in found.differences] or [(row, None) for row in found.models[0].layers]
    data = []
    for style, model in enumerate(found.models):
        rows = [(index, pair[style]) for index, pair in enumerate(pairs, start=1)]
        known = [(index, row) for index, row in rows if row is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": shorten(model.model.name),
                "x": [index for index, _ in known],
                "y": [row.us for _, row in known],
                "text": [shorten(f"{row.layer or row.kind}: {row.operator} {row.type}") for _, row in known],
                "line": {"color": color(style), "width": 1.5},
                "marker": {"size": 6, "color": color(style), "symbol": symbol(style)},
                "hovertemplate": "%{text}<br>%{y:.1f} µs",
            }
        )
    return Chart(
        name=f"times-{number}",
        label="Time of every layer along the network; the largest are in the tables below",
        data=data,
        layout=lay_out(
            xaxis={"title": {"text": "layer, from the input to the output"}, "range": [0.3, len(pairs) + 0.7]},
            yaxis={"title": {"text": "µs with the profiler on"}, "rangemode": "tozero"},
            legend=LEGEND_ABOVE,
        ),
        height=340,
    )
