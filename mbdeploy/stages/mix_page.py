"""The search as a page: accuracy against time of every mix, the front through the best, and all figures below."""

from __future__ import annotations

from typing import Any

from mbdeploy.mixing.report import MixReport
from mbdeploy.mixing.verdict import judge_search
from mbdeploy.stages.mix_tables import list_goals
from mbdeploy.stages.pages import open_template

_WIDTH, _HEIGHT = 640.0, 320.0
_STEPS = 5


def render_search(report: MixReport) -> str:
    """One self-contained HTML page; names from the model are escaped."""
    page: str = open_template("mix.html").render(
        report=report,
        verdict=judge_search(report),
        goals=list_goals(report),
        plot=_place_mixes(report),
        size=(_WIDTH, _HEIGHT),
    )
    return page


def _place_mixes(report: MixReport) -> dict[str, Any]:
    """Points, whiskers and ticks in SVG units: time to the right, dB upwards."""
    mixes = [*report.mixes, *report.made]
    low = min((mix.ratio.low for mix in mixes), default=0.0)
    high = max((*(mix.ratio.high for mix in mixes), 1.0))
    floor, ceiling = (edge(mix.sqnr_db for mix in mixes) for edge in (min, max))
    span, rise = (high - low) or 1.0, (ceiling - floor) or 1.0

    def across(ratio: float) -> float:
        return _WIDTH * (ratio - low) / span

    def up(sqnr_db: float) -> float:
        return _HEIGHT * (1 - (sqnr_db - floor) / rise)

    points = [
        {
            "mix": mix,
            "x": across(mix.ratio.value),
            "y": up(mix.sqnr_db),
            "ends": (across(mix.ratio.low), across(mix.ratio.high)),
            "chosen": mix.name == report.chosen,
            "made": mix in report.made,
        }
        for mix in mixes
    ]
    front = sorted((across(mix.ratio.value), up(mix.sqnr_db)) for mix in report.mixes if mix.on_front)
    return {
        "points": points,
        "front": " ".join(f"{x:.1f},{y:.1f}" for x, y in front),
        "even": across(1.0),
        "x_ticks": [(_WIDTH * step / _STEPS, low + span * step / _STEPS) for step in range(_STEPS + 1)],
        "y_ticks": [(_HEIGHT * (1 - step / _STEPS), floor + rise * step / _STEPS) for step in range(_STEPS + 1)],
    }
