"""The search as part of a page: its verdict, accuracy against time of every mix with the front, and all figures."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from mbdeploy.derive import Verdict
from mbdeploy.mixing.report import Mix, MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.stages.mix_tables import list_goals, tabulate_effects, tabulate_mixes
from mbdeploy.stages.reporting.chart import LEGEND_ABOVE, Chart, color, draw_intervals, lay_out, line_at
from mbdeploy.stages.reporting.frame import open_part
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.tables import Table


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """What a page says of one search; ``number`` tells its figure and tables from those of others on the page."""

    number: str
    report: MixReport
    verdict: Verdict
    goals: list[str]
    chart: Chart
    tables: list[Table]
    effects: Table


def render_search(report: MixReport) -> str:
    """One self-contained HTML page, without a script; names from the model are escaped."""
    page: str = open_part("mix.html").render(search=describe_search(report, judge_search(report), "0"))
    return page


def describe_search(report: MixReport, verdict: Verdict, number: str) -> Section:
    """Everything that a page shows of a search; its raw times are not needed."""
    return Section(
        number=number,
        report=report,
        verdict=verdict,
        goals=list_goals(report),
        chart=draw_front(report, f"mixes-{number}"),
        tables=tabulate_mixes(report, intervals=True),
        effects=tabulate_effects(report),
    )


def draw_front(report: MixReport, name: str) -> Chart:
    """Accuracy against time: the mixes, a line through those on the front, and those that were made in full."""
    mixes = [mix for mix in report.mixes if math.isfinite(mix.sqnr_db)]
    made = [mix for mix in report.made if math.isfinite(mix.sqnr_db)]
    front = sorted((mix for mix in mixes if mix.on_front), key=lambda mix: mix.ratio.value)
    left = len(report.mixes) + len(report.made) - len(mixes) - len(made)
    data = [
        _draw_points([mix for mix in mixes if not mix.on_front], "beaten by another", 5, "circle"),
        {**_draw_points(front, "on the front", 0, "circle"), "mode": "lines+markers"},
        _draw_points(made, "quantized in full, timed in several processes", 1, "diamond"),
    ]
    ends = [bound for mix in (*mixes, *made) for bound in (mix.ratio.low, mix.ratio.high) if math.isfinite(bound)]
    low, high = min(ends, default=0.0), max((*ends, 1.0))
    margin = 0.04 * (high - low or 1.0)
    return Chart(
        name=name,
        label="SQNR against time of every mix; the same numbers are in the tables below",
        data=[trace for trace in data if trace["x"]],
        layout=lay_out(
            xaxis={
                "title": {"text": "time over optimised FP32 (dashed: no gain)"},
                "range": [low - margin, high + margin],
            },
            yaxis={"title": {"text": "SQNR of the outputs, dB"}},
            shapes=[line_at(1.0)],
            legend=LEGEND_ABOVE,
        ),
        height=360,
        notes=(f"{left} mixes have no finite SQNR, and are not drawn.",) if left else (),
    )


def _draw_points(mixes: list[Mix], name: str, style: int, symbol: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": [mix.ratio.value for mix in mixes],
        "y": [mix.sqnr_db for mix in mixes],
        "text": [shorten(mix.name, 60) for mix in mixes],
        "marker": {"size": 10, "color": color(style), "symbol": symbol},
        "line": {"color": color(style), "width": 1.5},
        "error_x": draw_intervals([mix.ratio for mix in mixes], color(style)),
        "hovertemplate": "%{text}<br>%{x:.3f} of FP32's time, %{y:.2f} dB",
    }
