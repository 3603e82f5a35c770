"""The inspect stage and its command: files and cards in, tables, JSON, CSV and a page out."""

from __future__ import annotations

import csv
import html
import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper, numpy_helper

import mbdeploy
from mbdeploy.artifact import Provenance, digest_file, write_sidecar
from mbdeploy.cli import program
from mbdeploy.costs.report import Bound, InspectReport, Peaks, Roofline, Sweep, SweepCell
from mbdeploy.errors import CardError, ModelError, StepError, UnavailableError, UsageError
from mbdeploy.records import LayerRecord, QuantizeRecord
from mbdeploy.stages.inspect import inspect, render_inspection
from mbdeploy.stages.inspect_charts import Axis, make_lane, make_treemap
from mbdeploy.stages.inspect_peaks import measure_peaks
from mbdeploy.stages.inspect_text import lay_out
from mbdeploy.stages.tables import Table
from mbdeploy.watch import Limits

pytestmark = pytest.mark.slow  # nearly all start a native step

HOSTILE = '<script>alert("1")</script>\x1b[2J\u202e&amp;'
PEAKS = {"gmacs_fp32": 50.0, "gmacs_int8": 200.0, "gbytes": [[32768, 40.0], [134217728, 8.0]]}
HOST = {
    "machine": "x86_64",
    "system": "Linux",
    "cpu": "a <CPU>",
    "isa": [],
    "cores": 1,
    "affinity": 1,
    "cgroup_cores": None,
    "memory_bytes": 1,
    "versions": {},
    "providers": [],
}


def run(*args: str) -> Result:
    return CliRunner().invoke(program, list(args))


def build_deep(layers: int, name: str = "layer") -> onnx.ModelProto:
    weight = numpy_helper.from_array(np.ones((8, 8, 1, 1), np.float32), "w")
    nodes = [helper.make_node("Conv", [f"t{i}" if i else "x", "w"], [f"t{i + 1}"], f"{name}{i}") for i in range(layers)]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8, 4, 4])],
        [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, ["n", 8, 4, 4])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def report(conv_model_file: Path) -> InspectReport:
    return inspect(conv_model_file)


def test_a_file_is_inspected_in_a_child_and_the_report_is_whole(report: InspectReport) -> None:
    # Conv 3 -> 8 of 3x3 on 16x16, padded, and Gemm 8 -> 5
    assert report.total.macs == 256 * 8 * 27 + 40
    assert report.total.parameters == 216 + 8 + 40 + 5
    assert (report.batch, report.opset, report.precision, report.inputs) == (1, 18, "fp32", {"image": (1, 3, 16, 16)})
    assert [layer.name for layer in report.layers] == ["conv", "relu", "pool", "flatten", "fc"]
    assert mbdeploy.inspect is inspect


@pytest.mark.usefixtures("without_children")
def test_the_report_survives_json(report: InspectReport) -> None:
    text = render_inspection(report, format="json")
    assert msgspec.json.decode(text, type=InspectReport) == report
    assert json.loads(text)["schema_version"] == 1


@pytest.mark.usefixtures("without_children")
def test_csv_has_one_row_a_layer(report: InspectReport) -> None:
    rows = list(csv.DictReader(io.StringIO(render_inspection(report, format="csv"))))
    assert [row["name"] for row in rows] == [layer.name for layer in report.layers]
    assert rows[0]["inputs"] == "1x3x16x16"
    assert rows[0]["macs"] == str(256 * 8 * 27)


@pytest.mark.usefixtures("without_children")
def test_a_name_that_looks_like_a_formula_is_quoted_in_csv(tmp_path: Path) -> None:
    path = tmp_path / "formula.onnx"
    path.write_bytes(build_deep(1, '=HYPERLINK("a")').SerializeToString())
    rows = list(csv.DictReader(io.StringIO(render_inspection(inspect(path), format="csv"))))
    assert rows[0]["name"].startswith("'=HYPERLINK")


@pytest.mark.parametrize("format", ["table", "md"])
@pytest.mark.usefixtures("without_children")
def test_text_holds_the_sums_the_kinds_the_layers_and_the_findings(report: InspectReport, format: str) -> None:
    text = render_inspection(report, format=format)
    for expected in ("0.06 M", "standard conv", "GlobalAveragePool", "MB203", "One multiply-add is one MAC"):
        assert expected in text
    if format == "table":
        assert max(map(len, text.splitlines())) <= 80


def test_a_long_table_fits_80_columns_and_folds_names() -> None:
    rows = tuple(
        (f"/a/very/long/name/of/a/layer/that/goes/on/and/on/for/ever/{i}", "Conv", str(i), "7") for i in range(50)
    )
    lines = lay_out(Table(title="t", columns=("layer", "what", "n", "m"), rows=rows, left=(0, 1))).splitlines()
    assert max(map(len, lines)) <= 80
    shown = "".join(lines)
    assert "ever/49" in shown


@pytest.mark.usefixtures("without_children")
def test_an_unknown_format_is_refused(report: InspectReport) -> None:
    with pytest.raises(UsageError, match="html"):
        render_inspection(report, format="xml")


@pytest.mark.usefixtures("without_children")
def test_the_page_asks_for_nothing_and_runs_nothing(report: InspectReport) -> None:
    page = render_inspection(report, format="html")
    assert page.lower().count("<!doctype html>") == 1
    assert not re.search(r"<script|<link|<iframe|<img|\ssrc=|href=|url\(|https?:|@import|\son\w+=", page)
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page


@pytest.mark.usefixtures("without_children")
def test_hostile_names_are_text_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "hostile.onnx"
    model = build_deep(2, HOSTILE)
    model.graph.node.append(helper.make_node("Wave", ["t2"], ["late"], HOSTILE + "wave", domain="evil<b>"))
    model.opset_import.append(helper.make_opsetid("evil<b>", 1))
    path.write_bytes(model.SerializeToString())
    report = inspect(path)
    page = render_inspection(report, format="html")
    assert "<script" not in page and "<b>\\" not in page and "evil<b>" not in page
    assert html.escape("<script>", quote=False) in page
    for format_ in ("html", "table", "md", "csv"):
        text = render_inspection(report, format=format_)
        assert "\x1b" not in text and "\u202e" not in text, format_


@pytest.mark.usefixtures("without_children")
def test_the_page_of_a_deep_network_stays_below_500_kb(tmp_path: Path) -> None:
    path = tmp_path / "deep.onnx"
    path.write_bytes(build_deep(2000, "a/name/as/exporters/write/them/").SerializeToString())
    page = render_inspection(inspect(path), format="html")
    assert len(page.encode()) < 500_000
    assert "and 1600 more" in page


@pytest.mark.usefixtures("without_children")
def test_the_page_shows_sweep_and_roofline(report: InspectReport) -> None:
    cells = tuple(
        SweepCell(alpha=a, size=s, macs=int(1e6 * a * s), weights=1000) for a in (0.5, 1.0) for s in (96, 128)
    )
    sweep = Sweep(card="a_card", alpha=1.0, size=128, cells=cells)
    bounds = (Bound(layer="conv", compute_us=3.0, memory_us=1.0), Bound(layer="pool", compute_us=0.0, memory_us=2.0))
    peaks = msgspec.convert({**PEAKS, "host": HOST}, Peaks)
    shown = msgspec.structs.replace(
        report, sweep=sweep, roofline=Roofline(precision="fp32", peaks=peaks, bounds=bounds)
    )
    page = render_inspection(shown, format="html")
    assert "α = 0.5" in page and "128.0 M" in page
    assert "a &lt;CPU&gt;" in page and "3.0 µs" in page
    text = render_inspection(shown)
    assert "not below 0.01 ms" in text and "96 px" in text and "128.0 M" in text


def test_treemap_boxes_fill_the_map_in_proportion() -> None:
    values = [6.0, 0.0, 3.0, 2.0, 1.0]
    boxes = make_treemap(values, 120, 100)
    assert {box.index for box in boxes} == {0, 2, 3, 4}
    for box in boxes:
        assert box.width * box.height == pytest.approx(values[box.index] * 1000)
        assert box.x >= -1e-9 and box.x + box.width <= 120 + 1e-9 and box.y + box.height <= 100 + 1e-9


def test_a_lane_leaves_out_zeros_and_scales_to_the_largest() -> None:
    assert [(box.index, box.height) for box in make_lane([1.0, 0.0, 4.0], 30, 80)] == [(0, 20.0), (2, 80.0)]
    assert make_lane([], 30, 80) == make_treemap([], 30, 80) == []


def test_an_axis_has_ticks_inside_it_only() -> None:
    assert [value for _, value in Axis(low=3, high=120, length=100).ticks] == [5, 10, 20, 50, 100]
    assert [value for _, value in Axis(low=0.5, high=5000, length=100).ticks] == [1, 10, 100, 1000]


def write_quantized(folder: Path, model: Path, *, own: bool = False) -> Path:
    """A sidecar as ``quantize`` leaves it, for a file beside ``model`` or for ``model`` itself."""
    layer = LayerRecord(
        node="conv",
        operator="Conv",
        weight="conv.weight",
        depthwise=False,
        input_range=(-1.0, 1.0),
        output_range=(0.0, 24.0),
        weight_scale=(1.0, 1.0),
        growth_mean=1.0,
        growth_max=1.0,
        clipping=0.0,
    )
    record = QuantizeRecord(
        recipe="portable",
        techniques=("bias",),
        method="minmax",
        samples=1,
        data="photos",
        data_digest="",
        layers=(layer,),
        float_nodes={},
        operators={},
        cpu_s=0.0,
        peak_bytes=0,
    )
    output = model if own else folder / "int8.onnx"
    if not own:
        output.write_bytes(b"not read")
    parents = {} if own else {"model": digest_file(model)}
    write_sidecar(output, Provenance(stage="quantize", params={}, parents=parents, tools={}), record)
    return output


@pytest.mark.parametrize("own", [False, True], ids=["beside", "own"])
@pytest.mark.usefixtures("without_children")
def test_ranges_come_from_the_quantization_of_this_very_file(conv_model_file: Path, tmp_path: Path, own: bool) -> None:
    write_quantized(tmp_path, conv_model_file, own=own)
    found = next(finding for finding in inspect(conv_model_file).findings if finding.rule == "MB203")
    assert found.evidence[0].text.startswith("Relu: up to 24, int8 step 0.094")


@pytest.mark.usefixtures("without_children")
def test_ranges_of_another_file_are_not_believed(conv_model_file: Path, tmp_path: Path) -> None:
    write_quantized(tmp_path, conv_model_file)
    with conv_model_file.open("ab") as file:
        file.write(onnx.ModelProto(doc_string="changed").SerializeToString())
    found = next(finding for finding in inspect(conv_model_file).findings if finding.rule == "MB203")
    assert found.evidence[0].text == "Relu: range unknown"


def test_a_large_file_is_walked_and_gives_the_same_report(
    conv_model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbdeploy.stages import inspect_job

    request = {"model": str(conv_model_file), "input_shape": None, "as_standard_conv": True, "ignore": []}
    whole = inspect_job.inspect_file(request, lambda *_: None)
    monkeypatch.setattr(inspect_job, "_LARGE_BYTES", 0)
    assert inspect_job.inspect_file(request, lambda *_: None) == whole


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"version https://git-lfs.github.com/spec/v1", "LFS"), (b"\xff" * 100, "do not parse")],
)
def test_what_is_no_model_is_refused_in_the_words_of_the_loader(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        inspect(path)


def test_neither_a_file_nor_a_card_is_refused() -> None:
    with pytest.raises(CardError, match="no such card"):
        inspect("no_such_card")


def test_a_child_that_may_not_live_is_reported(conv_model_file: Path) -> None:
    with pytest.raises(StepError, match="TIMEOUT"):
        inspect(conv_model_file, limits=Limits(wall_s=0.01))


def test_a_sweep_needs_a_card(conv_model_file: Path) -> None:
    with pytest.raises(UsageError, match="names no card"):
        inspect(conv_model_file, sweep=True)


@pytest.mark.usefixtures("without_children")
def test_the_command_writes_what_it_was_asked_for(conv_model_file: Path, tmp_path: Path) -> None:
    shown = run("inspect", str(conv_model_file), "--format", "json", "--ignore", "MB203", "--as-standard-conv")
    assert shown.exit_code == 0, shown.stderr
    answer = json.loads(shown.stdout)
    assert answer["ignored"] == ["MB203"]
    assert answer["standard"]["macs"] == answer["total"]["macs"]
    page = tmp_path / "page.html"
    written = run("inspect", str(conv_model_file), "--format", "html", "-o", str(page))
    assert (written.exit_code, written.stdout) == (0, "")
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    "arguments", [["--ignore", "MB999"], ["--input-shape", "3,x,4"], ["--format", "pdf"], ["--sweep"]]
)
def test_a_command_that_asks_for_what_is_not_ends_in_2(conv_model_file: Path, arguments: list[str]) -> None:
    ended = run("inspect", str(conv_model_file), *arguments)
    assert ended.exit_code == 2
    assert ended.stderr.splitlines()[-1].startswith("error: ")


@pytest.fixture
def measured_shortly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of convolutions and copies in milliseconds each."""
    monkeypatch.setattr("mbdeploy.stages.inspect_peaks._CONV_SECONDS", 0.01)
    monkeypatch.setattr("mbdeploy.stages.inspect_peaks._COPY_SECONDS", 0.01)
    monkeypatch.setattr("mbdeploy.stages.inspect_peaks.WORKING_SETS", (1 << 15, 1 << 20))


@pytest.mark.usefixtures("measured_shortly")
def test_measured_peaks_are_finite_and_fall_with_the_working_set() -> None:
    found = measure_peaks({}, lambda *_: None)
    assert found["gmacs_fp32"] > 0 and found["gmacs_int8"] > 0
    assert [size for size, _ in found["gbytes"]] == [1 << 15, 1 << 20]
    assert all(0 < speed < 1e5 for _, speed in found["gbytes"])


@pytest.mark.usefixtures("without_children", "measured_shortly")
def test_the_roofline_of_this_machine_bounds_every_layer(conv_model_file: Path) -> None:
    roofline = inspect(conv_model_file, measure=True).roofline
    assert roofline is not None
    assert [bound.layer for bound in roofline.bounds] == ["conv", "pool", "fc"]
    assert all(bound.limit_us > 0 for bound in roofline.bounds)
    assert roofline.peaks.host.cpu


@pytest.mark.sweep
def test_mobilenet_v1_costs_what_its_paper_says(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    found = inspect("mobilenet_v1", sweep=True, as_standard_conv=True)
    # arXiv:1704.04861, tables 1, 2, 6 and 7 (there printed in millions) and 4
    assert round(found.total.macs / 1e6) == 569
    assert round(found.total.parameters / 1e6, 1) == 4.2
    pointwise = next(kind for kind in found.kinds if kind.kind == "pointwise conv")
    assert f"{pointwise.macs / found.total.macs:.2%}" == "94.86%"
    assert f"{pointwise.weights / found.total.weights:.2%}" == "74.59%"
    assert len(found.blocks) == 13
    assert found.standard is not None
    assert round(found.standard.weights / 1e6, 1) == 29.3
    assert round(found.standard.macs / 1e6) == 4867  # the paper prints 4866: it leaves out the classifier's 1.02
    assert found.sweep is not None
    swept = {(cell.alpha, cell.size): cell for cell in found.sweep.cells}
    assert [round(swept[alpha, 224].macs / 1e6) for alpha in (1.0, 0.75, 0.5, 0.25)] == [569, 325, 149, 41]
    assert [round(swept[alpha, 224].weights / 1e6, 1) for alpha in (1.0, 0.75, 0.5, 0.25)] == [4.2, 2.6, 1.3, 0.5]
    assert [round(swept[1.0, size].macs / 1e6) for size in (192, 160, 128)] == [418, 291, 186]
    own = swept[found.sweep.alpha, found.sweep.size]
    assert (own.macs, own.weights) == (found.total.macs, found.total.weights)


@pytest.mark.parametrize("name", ["simplified.onnx", "fp32.onnx"])
def test_a_card_that_was_exported_is_read_from_its_folder(
    conv_model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / "out" / "mobilenet_v1"
    folder.mkdir(parents=True)
    conv_model_file.rename(folder / name)
    monkeypatch.chdir(tmp_path)
    shown = run("inspect", "mobilenet_v1", "--format", "json")
    assert json.loads(shown.stdout)["model"] == name


def test_a_card_without_a_file_says_what_to_do_where_there_is_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r"give the path of an \.onnx file"):
        inspect("mobilenet_v1")
