"""A history asked: lines of what may be compared, and changes against the run before."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from folders import HOST

from mbdeploy.cli import program
from mbdeploy.errors import DataError, UsageError
from mbdeploy.remembering.history import Line, history
from mbdeploy.remembering.page import render_page
from mbdeploy.remembering.tables import tabulate_history

pytestmark = pytest.mark.usefixtures("in_process")


def find_lines(lines: tuple[Line, ...], metric: str, variant: str = "int8") -> list[Line]:
    return [line for line in lines if (line.metric, line.variant) == (metric, variant)]


def test_runs_are_in_order_with_the_change_against_the_one_before(add_run: Callable[..., Path]) -> None:
    for day, ratio in (("03", 0.6), ("01", 0.5), ("02", 0.5)):
        folder = add_run(day, ratio)
    (line,) = find_lines(history(folder=folder).lines, "latency_ratio")
    assert [point.when_utc[8:10] for point in line.points] == ["01", "02", "03"]
    assert [point.value for point in line.points] == [0.5, 0.5, 0.6]
    assert [point.change for point in line.points] == [None, 0.0, pytest.approx(0.2)]
    assert [point.overlaps for point in line.points] == [None, True, False]


def test_unlike_hosts_providers_threads_and_batches_are_never_in_one_line(add_run: Callable[..., Path]) -> None:
    add_run("01")
    changes: list[dict[str, Any]] = [{"threads": 2}, {"batch_size": 8}]
    for change in (*changes, {"host": msgspec.structs.replace(HOST, cpu="B CPU")}):
        folder = add_run("02", **change)
    lines = find_lines(history(folder=folder).lines, "latency_ms")
    assert len(lines) == 4
    assert [point.change for line in lines for point in line.points] == [None] * 4
    tables = tabulate_history(history(folder=folder))
    titles = [table.title for table in tables[:-1]]
    assert titles == [
        "lite0 on cpu, 1 thread, host A",
        "lite0 on cpu, 1 thread, batch 8, host A",
        "lite0 on cpu, 2 threads, host A",
        "lite0 on cpu, 1 thread, host B",
    ]
    assert [row[0] for row in tables[-1].rows] == ["host A", "host B"]


@pytest.mark.parametrize("model", ["lite0' OR 1=1 --", '"; DROP TABLE measurements', "%", "$model"])
def test_a_model_s_name_is_a_value_and_no_sql(add_run: Callable[..., Path], model: str) -> None:
    add_run("01")
    folder = add_run("02", model=model)
    assert {line.model for line in history(model, folder=folder).lines} == {model}
    with pytest.raises(UsageError, match=r"found only .*lite0"):
        history(f"{model} ", folder=folder)


@pytest.mark.parametrize("name", ["a*b", "q?[x]", "'; drop", "k=v", "**", "{a,b}"])
def test_a_folder_s_name_is_a_name_and_no_pattern(add_run: Callable[..., Path], name: str, tmp_path: Path) -> None:
    folder = add_run("01").rename(tmp_path / name)
    assert len(find_lines(history(folder=folder).lines, "latency_ms")) == 1


def test_no_history_is_refused(tmp_path: Path, needs_duckdb: None) -> None:
    with pytest.raises(DataError, match="no such folder"):
        history(folder=tmp_path / "absent")
    with pytest.raises(DataError, match="no Parquet file"):
        history(folder=tmp_path)


def test_the_page_draws_the_numbers_of_the_json_on_a_time_axis_and_hostile_names_are_text(
    add_run: Callable[..., Path],
) -> None:
    evil = "<img src=x onerror=alert(1)>\x1b[2J"
    add_run("01", model=evil)
    folder = add_run("02", 0.6, model=evil)
    found = history(folder=folder)
    page = render_page(found)
    assert "<img" not in page and "\x1b" not in page and "&lt;img src=x" in page
    assert 'http-equiv="Content-Security-Policy" content="default-src \'none\'' in page
    (text,) = re.findall(r'id="charts">(.*?)</script>', page)
    charts = {chart["name"]: chart for chart in json.loads(text)}
    assert list(charts) == [f"history-0-{name}" for name in ("latency_ratio", "latency_ms", "size_bytes", "peak_bytes")]
    (trace,) = charts["history-0-latency_ratio"]["data"]
    assert trace["x"] == ["2026-01-01 12:00:00", "2026-01-02 12:00:00"]
    (line,) = find_lines(found.lines, "latency_ratio")
    assert trace["y"] == [point.value for point in line.points] == [0.5, 0.6]
    assert charts["history-0-latency_ratio"]["layout"]["xaxis"]["type"] == "date"
    assert "no gate" in page


def test_the_commands_add_show_and_end_with_zero_whatever_the_numbers_say(
    add_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run("01")
    add_run("02", 9.0)
    monkeypatch.chdir(tmp_path)
    run = CliRunner().invoke
    added = run(program, ["history", "add", "bench.json", "--format", "json"])
    assert (added.exit_code, [one["known"] for one in json.loads(added.stdout)["results"]]) == (0, [True])
    shown = run(program, ["history", "show", "lite0", "--html", "page.html"])
    assert shown.exit_code == 0 and "+1700.0 %" in shown.stdout and "This is no gate" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert Path("page.html").read_text().startswith("<!doctype html>")
    plain = json.loads(run(program, ["history", "show", "--format", "json"]).stdout)
    assert plain["schema_version"] == 1 and plain["host_classes"] == [plain["lines"][0]["host_class"]]
    assert run(program, ["history", "show", "nope"]).exit_code == 2
    (tmp_path / "history" / "odd.parquet").write_text("x")
    assert run(program, ["history", "show"]).exit_code == 2
