"""Figures as SVG: every point where its numbers say, and names as text."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.stages.reporting.axes import choose_dates, choose_ticks, read_date
from mbdeploy.stages.reporting.chart import Chart, escape_for_plotly, lay_out
from mbdeploy.stages.reporting.svg import render_svg


def make_chart(*traces: dict[str, Any], **layout: Any) -> Chart:
    return Chart(name="c", label="a <b>", data=list(traces), layout=lay_out(**layout), height=248)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_round_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = choose_ticks(low, high)
    step = (high - low) / 6
    assert 2 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert all(low - step * 1e-3 <= tick <= high + step * 1e-3 for tick in ticks)


def test_a_point_lies_where_its_numbers_say() -> None:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": [0.0, 10.0],
        "y": [0.0, 4.0],
        "marker": {"size": 8, "color": "#123456"},
    }
    axes = {"xaxis": {"range": [0, 10]}, "yaxis": {"range": [0, 8]}}
    shown = render_svg(make_chart(trace, **axes))
    places = re.findall(r"translate\(([\d.]+) ([\d.]+)\) scale", shown)
    assert places == [("64.0", "200.0"), ("1020.0", "117.0")]  # from 64 to 1020, and from 200 up to 34


def test_a_floating_bar_spans_its_range() -> None:
    trace = {"type": "bar", "x": [1], "y": [6.0], "base": [-2.0], "text": ["stem"], "marker": {"color": "red"}}
    shown = render_svg(make_chart(trace, xaxis={"range": [0, 2]}, yaxis={"range": [-2, 4]}))
    assert re.search(r'<rect x="[\d.]+" y="34.0" width="[\d.]+" height="166.0"', shown)
    assert "<title>stem: -2 to 4</title>" in shown


def test_a_box_is_of_all_samples() -> None:
    trace = {"type": "box", "name": "int8", "x0": "int8", "xaxis": "x2", "y": [1.0, 2.0, 3.0, 4.0, 100.0], "marker": {}}
    shown = render_svg(make_chart(trace, xaxis={"domain": [0, 0.5]}, xaxis2={"domain": [0.5, 1]}))
    assert "int8: median 3, quartiles 2 and 4, 1 to 100" in shown


def test_a_date_lies_where_its_time_says_and_is_written_at_round_ones() -> None:
    trace = {
        "type": "scatter",
        "mode": "markers",
        "x": ["2026-01-01 00:00:00", "2026-01-02 00:00:00", "2026-01-05 00:00:00"],
        "y": [1.0, 1.0, 1.0],
        "marker": {"size": 8, "color": "#123456", "symbol": ["diamond", "diamond-open", "diamond"]},
    }
    shown = render_svg(make_chart(trace, xaxis={"type": "date"}))
    first, second, last = (float(place) for place in re.findall(r"translate\(([\d.]+) [\d.]+\) scale", shown))
    assert second - first == pytest.approx((last - first) / 4, abs=0.1)
    assert re.findall(r">(2026-[^<]+)</text>", shown) == [f"2026-01-0{day}" for day in range(1, 6)]
    assert shown.count('fill="none" stroke="#123456"') == 1  # the open one


@given(st.integers(0, 4 * 10**9), st.integers(120, 10**9))
def test_dates_are_few_whole_and_inside(low: int, width: int) -> None:
    step, dates = choose_dates(low, low + width)
    assert len(dates) <= 7
    assert all(low <= read_date(date) <= low + width and read_date(date) % step == 0 for date in dates)


@pytest.mark.parametrize("count", [3, 300])
def test_names_are_text_and_the_result_is_xml(count: int) -> None:
    name = "<script>&\"'</script>"
    trace = {
        "type": "scatter",
        "mode": "lines+markers+text",
        "name": name,
        "x": list(range(count)),
        "y": [float(index) for index in range(count)],
        "text": [name] * count,
        "marker": {"size": [4] * count, "color": "#123456"},
        "line": {"dash": "dot"},
        "error_y": {"array": [1.0] * count, "arrayminus": [1.0] * count, "color": "red"},
    }
    tree = ElementTree.fromstring(render_svg(make_chart(trace, shapes=[{"x0": 1, "line": {"dash": "dot"}}])))
    assert tree.get("aria-label") == "a <b>"
    assert name in [text.text for text in tree.iter("text")]
    assert list(tree.iter("script")) == []


def test_plotly_gets_names_without_tags_and_our_own_templates() -> None:
    trace = {"name": "<b>&", "text": ["<i>"], "x": [1.5], "hovertemplate": "%{x}<extra></extra>"}
    assert escape_for_plotly(trace) == {
        "name": "&lt;b&gt;&amp;",
        "text": ["&lt;i&gt;"],
        "x": [1.5],
        "hovertemplate": "%{x}<extra></extra>",
    }
