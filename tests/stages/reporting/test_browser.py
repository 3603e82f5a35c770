"""The page in a browser: no error, no request, the numbers of the JSON, and nothing that a name could do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from browser import Browser
from folders import (
    EXPORT,
    LAYER,
    PLACEMENT,
    QUANTIZE,
    SIMPLIFY,
    evaluate,
    make_curve,
    make_evaluation,
    make_metrics,
    make_parity,
    make_row,
    make_run,
    make_sweep,
)

from mbdeploy import artifact
from mbdeploy.results import PlacedNode
from mbdeploy.stages.report import report

pytestmark = [pytest.mark.browser, pytest.mark.slow]
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\x1b[2J\u202e&amp;{{7*7}}</script><b>"


@pytest.fixture
def page(make_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A page on two models, one of which has names that mean harm, in every place where a name can be."""
    layers = tuple(
        msgspec.structs.replace(LAYER, node=f"layer {index}", recovered_db=(20.0 + index, 21.0 + index))
        for index in range(14)
    )
    record = msgspec.structs.replace(QUANTIZE, layers=layers)
    rows = [make_row(name, "executed", "reference", make_metrics()) for name in ("simplified", "int8")]
    plain = make_folder(
        fp32=EXPORT,
        simplified=SIMPLIFY,
        int8=record,
        parity=make_parity(*rows),
        bench=[make_run(300)],
        evaluation=make_evaluation(evaluate("fp32", 80), evaluate("simplified", 80), evaluate("int8", 79)),
    )
    ran = (PlacedNode(name=HOSTILE, operator=HOSTILE, provider="CPUExecutionProvider", type="float32"),)
    placement = msgspec.structs.replace(PLACEMENT, ran=ran, elsewhere=(HOSTILE,))
    evil = make_folder(
        folder="evil <b>'&",
        fp32=EXPORT,
        int8=msgspec.structs.replace(
            QUANTIZE,
            layers=(msgspec.structs.replace(LAYER, node=HOSTILE), msgspec.structs.replace(LAYER, node="x" * 5_000_000)),
            float_nodes={HOSTILE: HOSTILE},
        ),
        parity=make_parity(
            make_row("int8", "executed", "reference", make_metrics(), output=HOSTILE, placement=placement),
            make_row("int8", "executed", "reference", make_metrics(), output="y" * 5_000_000, placement=placement),
            layers=(make_curve((HOSTILE, make_metrics(sqnr_db=30.0)), (HOSTILE, make_metrics(sqnr_db=20.0))),),
        ),
        bench=[make_run(70)],
    )
    path = tmp_path / "page.html"
    path.write_text(report(plain, evil, format="html"), encoding="utf-8")
    return path


def test_it_is_quiet_and_small_and_asks_for_nothing(browser: Browser, page: Path) -> None:
    assert page.stat().st_size <= 6_000_000
    browser.open(page)
    assert browser.read_console() == []
    assert browser.list_requests() == [page.resolve().as_uri()]
    assert browser.run("return document.querySelectorAll('figure svg').length") >= 6


def test_a_name_is_text_and_nothing_else(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert browser.run("return document.title") == "2 models · mbdeploy report"
    assert browser.run("return document.querySelectorAll('main img, main script, h2 b').length") == 0
    shown = browser.run("return document.body.innerText")
    assert "<script>document.title='owned'</script>" in shown
    assert r"\x1b[2J\u202e&amp;{{7*7}}" in shown
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "(5,000,000 characters)" in browser.run("return document.body.textContent")


def test_numbers_in_the_page_are_those_of_the_json(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page)
    found = browser.run("return JSON.parse(document.getElementById('facts').textContent)")[0]
    assert found == json.loads(report(tmp_path / "lite0", format="json"))
    drawn = browser.run("return JSON.parse(document.getElementById('charts').textContent)")
    charts = {chart["name"]: chart for chart in drawn}
    points = charts["pareto-0"]["data"][0]
    models = found["latency"][0]["models"]
    assert points["x"] == [model["wall"]["p50_ns"] / 1e6 for model in models]
    assert points["y"] == [100 * fact["top1"]["value"] for fact in found["accuracy"][0]["models"][1:]]
    assert charts["ratios-0"]["data"][0]["x"] == [models[1]["ratio"]["value"], found["latency"][0]["control"]["value"]]
    raw = json.loads((tmp_path / "lite0" / "results" / "bench.json").read_text())[0]
    for series, trace in zip(raw["series"], charts["latency-0-0"]["data"][::2], strict=True):
        assert trace["y"] == [time / 1e6 for time in series["wall_ns"]]
    recovered = [layer["recovered_db"] for layer in found["quantize"]["layers"]]
    assert [trace["y"] for trace in charts["recovery-0"]["data"]] == [
        list(each) for each in zip(*recovered, strict=True)
    ]


def test_a_sweep_s_figures_are_the_numbers_of_its_json_and_filter(browser: Browser, tmp_path: Path) -> None:
    artifact.write_json(tmp_path / "sweep.json", make_sweep(("cpu", 1), ("cpu", 2), ("cpu", 4), ("cuda", 1)))
    page = tmp_path / "page.html"
    page.write_text(report(tmp_path, format="html"), encoding="utf-8")
    browser.open(page)
    assert (browser.read_console(), browser.list_requests()) == ([], [page.resolve().as_uri()])
    found = browser.run("return JSON.parse(document.getElementById('facts').textContent)")
    assert found == json.loads(report(tmp_path, format="json"))
    drawn = browser.run("return JSON.parse(document.getElementById('charts').textContent)")
    points = next(chart for chart in drawn if chart["name"] == "macs-0-0")["data"]
    rows = [row for row in found["rows"] if (row["provider"], row["threads"]) == ("cpu", 1)]
    assert [x for trace in points[:2] for x in trace["x"]] == [50.0, 100.0] * 2
    assert sorted(y for trace in points[:2] for y in trace["y"]) == sorted(row["latency_ns"] / 1e6 for row in rows)
    assert browser.run("return document.querySelectorAll('#front-of-0 figure svg').length") == 8
    browser.run(
        "const field = document.querySelector('input[data-table=sweep-rows-0]'); field.value = 'CUDA';"
        "field.dispatchEvent(new Event('input'))"
    )
    shown = "return [...document.querySelectorAll('#sweep-rows-0 tbody tr')].filter(row => !row.hidden).length"
    assert browser.run(shown) == 4
    browser.run("document.querySelector('#macs-0-0 button.explore').click()")
    browser.wait("document.querySelector('#macs-0-0 .js-plotly-plot .main-svg')")
    assert browser.read_console() == []


def test_a_figure_becomes_plotly_s_when_asked_and_shows_the_same_points(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('#pareto-0 button.explore').click()")
    browser.wait("document.querySelector('#pareto-0 .js-plotly-plot .main-svg')")
    texts = browser.run(
        "return [...document.querySelectorAll('#pareto-0 .textpoint text')].map(one => one.textContent)"
    )
    assert texts == ["lite0 simplified", "lite0 int8"]
    browser.run("document.querySelector('#recovery-0 button.explore').click()")
    browser.wait("document.querySelector('#recovery-0 .main-svg')")
    assert browser.read_console() == []
    assert browser.list_requests() == [page.resolve().as_uri()]


def test_tables_sort_and_filter(browser: Browser, page: Path) -> None:
    browser.open(page)
    first = "document.querySelector('#layer-table-0 tbody tr').cells"
    browser.run("document.querySelectorAll('#layer-table-0 th button')[9].click()")
    assert browser.run(f"return {first}[9].textContent.trim()") == "21.00"
    browser.run("document.querySelectorAll('#layer-table-0 th button')[9].click()")
    assert browser.run(f"return {first}[9].textContent.trim()") == "34.00"
    browser.run(
        "const field = document.querySelector('input[data-table=layer-table-0]'); field.value = 'LAYER 7';"
        "field.dispatchEvent(new Event('input'))"
    )
    shown = "return [...document.querySelectorAll('#layer-table-0 tbody tr')].filter(row => !row.hidden).length"
    assert browser.run(shown) == 1


def test_a_cell_of_the_matrix_opens_to_its_outputs(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('table.heat summary').click()")
    shown = browser.run("return document.querySelector('table.heat details[open] .inner').innerText")
    assert "logits" in shown and "0.997" in shown


@pytest.mark.parametrize(("scheme", "background"), [("light", "rgb(245, 246, 248)"), ("dark", "rgb(16, 20, 26)")])
def test_light_and_dark_follow_the_reader(browser: Browser, page: Path, scheme: str, background: str) -> None:
    browser.emulate("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    browser.open(page)
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == background


def test_nothing_is_wider_than_a_narrow_screen_and_paper_gets_it_all(browser: Browser, page: Path) -> None:
    browser.emulate("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
    browser.open(page)
    assert browser.run("return document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    browser.emulate("Emulation.clearDeviceMetricsOverride")
    assert browser.print_pdf().startswith(b"%PDF")
