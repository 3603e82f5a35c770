"""A sweep's folder in the report: derived again from raw times, shown in every format, with other folders or alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from folders import EXPORT, HOST, SIMPLIFY, make_run, make_sweep, time_file

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.errors import DataError
from mbdeploy.stages.report import report
from mbdeploy.swept import SweepReport

CPU = ("cpu", 1)


@pytest.fixture
def write_sweep(tmp_path: Path) -> Callable[..., Path]:
    def write(found: SweepReport, name: str = "family") -> Path:
        artifact.write_json(tmp_path / name / "sweep.json", found)
        return tmp_path / name

    return write


def read_charts(page: str) -> dict[str, Any]:
    (text,) = re.findall(r'id="charts">(.*?)</script>', page)
    return {chart["name"]: chart for chart in json.loads(text)}


def test_what_follows_from_raw_times_is_derived_and_not_believed(write_sweep: Callable[..., Path]) -> None:
    made = make_sweep(CPU)
    wrong = [msgspec.structs.replace(row, latency_ns=1.0, size_bytes=7, on_front=False) for row in made.rows]
    found = json.loads(report(write_sweep(msgspec.structs.replace(made, rows=tuple(wrong))), format="json"))
    assert [row["latency_ns"] for row in found["rows"]] == [10e6, 9e6, 10e6, 5e6]
    assert [row["size_bytes"] for row in found["rows"]] == [1] * 4
    assert [row["on_front"] for row in found["rows"]] == [True, False, True, True]
    (misled,) = [one for one in found["misled"] if one["recipe"] == "portable"]
    assert (misled["wrong"], misled["fewer"], misled["macs_ratio"], misled["time_ratio"]) == (1, "small", 0.5, 1.8)


def test_words_say_how_far_macs_mislead(write_sweep: Callable[..., Path]) -> None:
    shown = " ".join(report(write_sweep(make_sweep(CPU))).split())
    assert (
        "portable on cpu, 1 t: of the only pair of variants with unlike MACs, one is slower with fewer MACs; the "
        "worst: small: 0.50 of the MACs of large, 1.80 of its time. A MAC takes up to 3.60 times as long in one "
        "variant as in another."
    ) in shown
    assert "fp32 on cpu, 1 t: of the only pair of variants with unlike MACs, none is slower" in shown


def test_runs_that_differ_from_themselves_are_named(write_sweep: Callable[..., Path]) -> None:
    made = make_sweep(CPU)
    slow = msgspec.structs.replace(made.runs[1], control=time_file("simplified", [13_000_000] * 70))
    folder = write_sweep(msgspec.structs.replace(made, runs=(made.runs[0], slow)))
    assert json.loads(report(folder, format="json"))["unsteady"] == ["large on cpu, 1 t"]
    for form in ("md", "html"):
        assert "The A/A control does not pass in 1 of 2 runs" in report(folder, format=form)
    assert "A/A control" not in report(write_sweep(made), format="md")


def test_text_is_80_columns_wide_and_markdown_has_a_title(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(make_sweep(CPU, ("cpu", 2)))
    assert max(map(len, report(folder).splitlines())) <= 80
    assert report(folder, format="md").startswith("# family\n\n### Sweep family\n\n| variant | recipe | on |")


def test_every_place_has_its_own_figures_whose_points_are_those_of_the_rows(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(make_sweep(CPU, ("cpu", 2), top1=True))
    charts = read_charts(report(folder, format="html"))
    assert list(charts) == [
        *(f"front-0-{place}-{word}" for place in (0, 1) for word in ("time", "memory")),
        "macs-0-0",
        "macs-0-1",
    ]
    rows = [row for row in json.loads(report(folder, format="json"))["rows"] if row["threads"] == 2]
    traces = charts["front-0-1-time"]["data"]
    assert [trace["name"] for trace in traces] == ["fp32, on the front", "portable, on the front", "portable"]
    drawn = {(x, y) for trace in traces for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert drawn == {(row["latency_ns"] / 1e6, 100 * row["top1"]["value"]) for row in rows}
    assert traces[2]["marker"]["symbol"].endswith("-open") and traces[2]["text"] == ["small"]
    points = charts["macs-0-1"]["data"]
    assert [(trace["x"], trace["y"]) for trace in points] == [
        ([50.0, 100.0], [10.0, 10.0]),
        ([50.0, 100.0], [9.0, 5.0]),
        ([50.0, 100.0], [9.0, 5.0]),
    ]


def test_times_of_unlike_hosts_are_never_in_one_figure(write_sweep: Callable[..., Path]) -> None:
    here = make_sweep(CPU)
    other = make_sweep(CPU, host=msgspec.structs.replace(HOST, cpu="B CPU"))
    folder = write_sweep(msgspec.structs.replace(here, rows=here.rows + other.rows, runs=here.runs + other.runs))
    charts = read_charts(report(folder, format="html"))
    assert [name for name in charts if name.startswith("macs")] == ["macs-0-0", "macs-0-1"]
    assert "portable on cpu, 1 t, B:" in report(folder, format="md")


def test_a_sweep_stands_beside_the_folders_of_single_models(
    write_sweep: Callable[..., Path], make_folder: Callable[..., Path]
) -> None:
    outs = (make_folder(fp32=EXPORT, simplified=SIMPLIFY, bench=[make_run(70)]), write_sweep(make_sweep(CPU)))
    found = json.loads(report(*outs, format="json"))
    assert ([one["model"] for one in found["reports"]], [one["sweep"] for one in found["sweeps"]]) == (
        ["lite0"],
        ["family"],
    )
    assert report(*outs, format="md").index("# lite0") < report(*outs, format="md").index("# family")
    page = report(*outs, format="html")
    assert 'id="m0"' in page and 'id="s0"' in page and "<title>2 models" in page


def test_two_sweeps_of_one_name_are_told_apart(write_sweep: Callable[..., Path]) -> None:
    outs = [write_sweep(make_sweep(CPU), name) for name in ("a/family", "b/family")]
    page, text = report(*outs, format="html"), report(*outs, format="md")
    assert all(f"# {out}\n" in text and f">{out}</h2>" in page for out in outs)


def test_commands_measure_each_number_again(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(make_sweep(CPU, top1=True))
    shown = report(folder, format="md").replace("\\", "")
    sweep = "mbdeploy sweep 'mine; rm' --rho 96,128 --recipe portable --processes 1"
    assert f"{sweep} -o {folder}" in shown
    files = f"{folder}/small/simplified.onnx {folder}/small/portable.onnx"
    assert f"mbdeploy bench {files} --min-duration 1 --processes 1 --inputs golden.npz" in shown
    assert f"mbdeploy verify {files}" in shown
    assert f"mbdeploy evaluate {files} --data DATA --limit 100" in shown
    assert f"mbdeploy inspect {folder}/small/simplified.onnx" in shown


def test_a_variant_that_was_made_anew_since_is_called_stale(write_sweep: Callable[..., Path]) -> None:
    folder = write_sweep(make_sweep(CPU))
    artifact.write_bytes(folder / "small" / "portable.onnx", b"another")
    provenance = Provenance(stage="quantize", params={}, parents={}, tools={})
    artifact.write_sidecar(folder / "small" / "portable.onnx", provenance, None)
    assert json.loads(report(folder, format="json"))["stale"] == [
        "sweep.json is of another portable file of small than the one that is here: sweep again"
    ]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"plan": []}', '{"plan": [], "rows": 3}', '{"plan": [], "asked": {"rho": 3}}']
)
def test_a_torn_or_foreign_sweep_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "sweep.json").write_text(text)
    with pytest.raises(DataError, match=r"sweep\.json: expected a result .* `mbdeploy sweep`"):
        report(tmp_path)


def test_rows_without_their_times_are_refused(write_sweep: Callable[..., Path]) -> None:
    made = make_sweep(CPU)
    hollow = msgspec.structs.replace(made.runs[0], series=())
    timeless = msgspec.structs.replace(
        made.runs[0], series=tuple(msgspec.structs.replace(one, cpu_ns=(), wall_ns=()) for one in made.runs[0].series)
    )
    for change in ({"rows": made.rows[:3]}, {"rows": (), "runs": (hollow,)}, {"runs": (timeless, made.runs[1])}):
        with pytest.raises(DataError, match="rows without their times"):
            report(write_sweep(msgspec.structs.replace(made, **change)))


def test_a_name_in_a_sweep_is_text_and_nothing_else(write_sweep: Callable[..., Path]) -> None:
    made, evil = make_sweep(CPU), "<img src=x onerror=alert(1)>"
    rows = tuple(
        msgspec.structs.replace(row, variant=evil + row.variant, recipe=evil + row.recipe) for row in made.rows
    )
    page = report(write_sweep(msgspec.structs.replace(made, rows=rows)), format="html")
    assert "<img" not in page and "&lt;img src=x" in page
