"""The page holds what the tables hold, names where each number is from, and what is missing."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from folders import (
    EXPORT,
    HOST,
    LAYER,
    QUANTIZE,
    SIMPLIFY,
    make_curve,
    make_metrics,
    make_parity,
    make_row,
    make_run,
    name_model,
)

from mbdeploy.artifact import Provenance, digest_file, write_sidecar
from mbdeploy.calls import Call
from mbdeploy.estimate import estimate_ratio
from mbdeploy.quant.calibration_file import Identity, make_seen, save_seen, write_cache
from mbdeploy.results import ParityReport
from mbdeploy.stages.bench_explain import Explained, ExplainResult
from mbdeploy.stages.report import report
from mbdeploy.stages.reporting.histograms import draw_histogram, read_histograms
from mbdeploy.stages.reporting.names import shorten
from mbdeploy.stages.reporting.origins import list_missing, tabulate_origins
from mbdeploy.stages.reporting.reading import read_saved
from mbdeploy.timing.layers import LayerTime, compare_layers


def explain_layers(first: list[float], second: list[float]) -> ExplainResult:
    """A profile of both files with these times in microseconds, of layers 0, 1 and so on."""
    rows = [
        tuple(
            LayerTime(name=name, operator="Conv", kind="layer", type="float32", us=us, samples_us=(1, 2), layer=name)
            for name, us in ((f"layer {k}", us) for k, us in enumerate(times))
        )
        for times in (first, second)
    ]
    models = tuple(
        Explained(model=name_model(name), wall_ns=(60_000, 61_000), layers=layers, absorbed=(), between_us=5.0)
        for name, layers in zip(("simplified", "int8"), rows, strict=True)
    )
    return ExplainResult(
        provider="cpu",
        threads=1,
        batch_size=1,
        inputs="golden.npz",
        models=models,
        ratio=estimate_ratio([3.0] * 40, [1.0] * 40),
        differences=compare_layers(*rows),
        peaks=None,
        host=HOST,
    )


@pytest.fixture
def parity() -> ParityReport:
    return make_parity(*(make_row(name, "executed", "reference", make_metrics()) for name in ("simplified", "int8")))


def test_every_cell_of_the_tables_is_in_the_page(make_folder: Callable[..., Path], parity: ParityReport) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, parity=parity, bench=[make_run(70)])
    shown = html.unescape(report(folder, format="html"))
    rows = [line for line in report(folder, format="md").splitlines() if line.startswith("| ") and "---" not in line]
    cells = {re.sub(r"\\(.)", r"\1", cell) for row in rows for cell in row.strip("| ").split(" | ")}
    left_out = {"exact dB", "on", "provider", "why"}  # the matrix and the verdicts say these in other words
    assert {cell for cell in cells - left_out if cell and cell not in shown} == set()


def test_the_policy_allows_the_page_s_two_scripts_and_nothing_else(make_folder: Callable[..., Path]) -> None:
    page = report(make_folder(fp32=EXPORT), format="html")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src ")
    own = re.findall(r"<script>(.*?)</script>", page, re.S)
    packed = re.findall(r'<script type="text/plain" id="plotly">(.*?)</script>', page)
    texts = [own[0].encode(), gzip.decompress(base64.b64decode(packed[0]))]
    digests = [f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'" for text in texts]
    assert html.unescape(policy).endswith("script-src " + " ".join(digests))
    assert len(own) == len(packed) == 1
    assert b"plotly.js" in texts[1][:200]


@pytest.mark.slow
def test_the_same_files_give_the_same_page(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, int8=QUANTIZE, bench=[make_run(70)])
    assert report(folder, format="html") == report(folder, format="html")


def test_seeded_weights_are_said_loudly(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=msgspec.structs.replace(EXPORT, trained=False))
    assert "SEEDED WEIGHTS" in report(folder, format="html")
    assert "Not judged" in report(folder, format="html")


def test_a_number_s_origin_is_its_file_with_its_digest_and_a_command(
    make_folder: Callable[..., Path], parity: ParityReport
) -> None:
    folder = make_folder(folder="my nets", fp32=EXPORT, int8=QUANTIZE, parity=parity, bench=[make_run(70)])
    rows = {row[1]: row for row in tabulate_origins(read_saved(folder)).rows}
    assert list(rows) == ["int8.onnx.json", "results/parity.json", "results/bench.json"]
    assert rows["results/bench.json"][3] == digest_file(folder / "results" / "bench.json")[:12]
    assert rows["results/bench.json"][4] == (
        "mbdeploy bench simplified.onnx int8.onnx --min-duration 1 --processes 1 --inputs golden.npz "
        f"-o '{folder}/results/bench.json'"
    )
    assert rows["results/parity.json"][4].startswith("mbdeploy verify simplified.onnx int8.onnx -o ")


def test_a_result_s_command_is_that_of_its_call_and_without_one_the_report_says_so(
    make_folder: Callable[..., Path], parity: ParityReport
) -> None:
    options = {"budgets": "mine.toml", "num_samples": 5, "threads": 1, "layers": True, "one_by_one": False}
    call = Call(command="verify", arguments=("a.onnx",), options=options)
    runs = [make_run(70), msgspec.structs.replace(make_run(70), provider="openvino", processes=3, cool_down_s=0.25)]
    folder = make_folder(parity=msgspec.structs.replace(parity, call=call), bench=runs, fp32=EXPORT)
    table = tabulate_origins(read_saved(folder))
    rows = {row[1]: row[4] for row in table.rows}
    assert rows["results/parity.json"] == (
        "mbdeploy verify a.onnx --budgets mine.toml --num-samples 5 --layers --no-one-by-one "
        f"-o {folder}/results/parity.json"
    )
    assert "--provider cpu --provider openvino" in rows["results/bench.json"]
    assert table.notes[1].startswith("An older version saved results/bench.json without all that it was told")
    assert (
        len(
            tabulate_origins(
                read_saved(make_folder(folder="new", parity=msgspec.structs.replace(parity, call=call), fp32=EXPORT))
            ).notes
        )
        == 1
    )
    missing = dict(list_missing(read_saved(folder)))["every way to open a session"]
    assert missing.endswith(f" --matrix --budgets mine.toml -o {folder}/results/matrix.json")


def test_the_int8_file_s_command_says_all_that_its_sidecar_says(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, int8=QUANTIZE)
    told = {"recipe": "u8u8", "without": ["bias"], "keep_float": ["a*", "-b"], "method": None, "samples": 128}
    provenance = Provenance(
        stage="quantize",
        params={**told, "preprocess": "my.toml", "seed": 7},
        parents={"model": digest_file(folder / "fp32.onnx")},
        tools={},
    )
    write_sidecar(folder / "int8.onnx", provenance, QUANTIZE)
    (command,) = (row[4] for row in tabulate_origins(read_saved(folder)).rows)
    assert command == (
        f"mbdeploy quantize {folder}/fp32.onnx --recipe u8u8 --without bias --keep-float 'a*' --keep-float=-b "
        f"--preprocess my.toml --seed 7 --calibration photos -o {folder}/int8.onnx"
    )


def test_what_was_not_measured_is_named_with_its_command(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, int8=QUANTIZE)
    missing = dict(list_missing(read_saved(folder)))
    assert missing["latency"] == (
        f"mbdeploy bench {folder}/fp32.onnx {folder}/int8.onnx -o {folder}/results/bench.json"
    )
    assert {"latency", "parity", "accuracy on labelled images", "histograms of activations"} < set(missing)
    seeded = make_folder(folder="seeded", fp32=msgspec.structs.replace(EXPORT, trained=False))
    assert "accuracy on labelled images" not in dict(list_missing(read_saved(seeded)))


def test_histograms_are_sums_of_the_saved_counts(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT)
    seen = make_seen(Identity(model="0" * 64, tensors=("a",), counting=True), {})
    values = np.linspace(-1, 3, 1000, dtype=np.float32)
    group = seen.groups[0]
    group.means.images = 1
    group.ranges.update("a", -1.0, 3.0)
    assert group.histograms is not None
    group.histograms.update("a", values, 3.0)
    (folder / "simplified.calibration").mkdir()
    save_seen(seen, folder / "simplified.calibration" / "calibration.npz")
    (folder / "simplified.calibration" / "ranges.json").write_bytes(write_cache({"a": (-0.5, 2.5)}))
    (found,) = read_histograms(folder)
    assert (found.tensor, found.observed, found.chosen) == ("a", (-1.0, 3.0), (-0.5, 2.5))
    assert sum(found.counts) == 1000
    assert len(found.counts) <= 48
    assert found.edges[0] <= -1.0 and found.edges[1] >= 3.0
    share = sum(found.counts[: round(len(found.counts) / 4)]) / 1000
    assert share == pytest.approx((found.edges[1] - found.edges[0]) / 4 / 4, abs=0.03)
    assert draw_histogram(found).count(" 0V56") == 2
    assert "chosen -0.5 … 2.5" in report(folder, format="html")


def test_a_name_is_cut_in_the_middle_and_says_how_long_it_is() -> None:
    assert shorten("short") == "short"
    assert shorten("a" * 1000 + "end", 40) == "a" * 26 + " … " + "a" * 7 + "end (1,003 characters)"
    assert shorten("\x1b[2J") == r"\x1b[2J"


@pytest.mark.slow
def test_layers_are_drawn_only_where_their_sqnr_was_recorded(make_folder: Callable[..., Path]) -> None:
    def list_charts(**changed: object) -> list[str]:
        record = msgspec.structs.replace(QUANTIZE, layers=(msgspec.structs.replace(LAYER, **changed),))
        page = report(make_folder(int8=record), format="html")
        (text,) = re.findall(r'id="charts">(.*?)</script>', page)
        return [chart["name"] for chart in json.loads(text)]

    assert list_charts() == ["ranges-0"]
    assert list_charts(recovered_db=(20.0, 25.0)) == ["recovery-0", "ranges-0"]


def test_the_curve_along_the_network_is_drawn_where_it_was_recorded_and_has_a_command_where_not(
    make_folder: Callable[..., Path], parity: ParityReport
) -> None:
    levels = (math.inf, 40.0, math.nan, 30.0, 24.0)
    layers = [
        (f"layer {k}", make_metrics(sqnr_db=level, degenerate="constant reference" if math.isnan(level) else None))
        for k, level in enumerate(levels)
    ]
    plain = make_folder(int8=QUANTIZE, parity=parity)
    assert "SQNR of every layer along the network" in dict(list_missing(read_saved(plain)))
    folder = make_folder(
        folder="curve", int8=QUANTIZE, parity=msgspec.structs.replace(parity, layers=(make_curve(*layers),))
    )
    assert "SQNR of every layer along the network" not in dict(list_missing(read_saved(folder)))
    command = {row[1]: row[4] for row in tabulate_origins(read_saved(folder)).rows}["results/parity.json"]
    assert command.startswith("mbdeploy verify simplified.onnx int8.onnx --layers -o ")
    page = report(folder, format="html")
    (text,) = re.findall(r'id="charts">(.*?)</script>', page)
    charts = {chart["name"]: chart for chart in json.loads(text)}
    assert list(charts) == ["curve-0-0", "ranges-0"]
    assert [(trace["x"], trace["y"]) for trace in charts["curve-0-0"]["data"]] == [
        ([2, 4, 5], [40.0, 30.0, 24.0]),
        ([5], [24.0]),
    ]
    assert charts["curve-0-0"]["notes"] == ["2 of 5 layers have no finite SQNR: see the table."]
    assert "3 layer 2: constant reference" in page
    short = next(part for part in report(folder).split("\n\n\n") if part.startswith("Where the network loses most"))
    assert [line.split()[:5] for line in short.splitlines() if "Conv" in line] == [["5", "layer", "4", "Conv", "24.00"]]
    found = json.loads(report(folder, format="json"))["layers"][0]["layers"]
    assert [(one["state"], one["sqnr_db"], one["drop_db"]) for one in found] == [
        ("equal", None, None),
        ("", 40.0, None),
        ("degenerate", None, None),
        ("", 30.0, None),
        ("", 24.0, 6.0),
    ]


def test_a_folder_that_holds_nothing_but_a_curve_shows_it(
    make_folder: Callable[..., Path], parity: ParityReport
) -> None:
    curve = make_curve(("stem", make_metrics()))
    none = msgspec.structs.replace(curve, layers=(), way=None, note="it cannot be run layer by layer: REJECTED")
    curves = msgspec.structs.replace(parity, layers=(curve, none))
    page = report(make_folder(fp32=EXPORT, parity=curves), format="html")
    assert "<h3>Layers</h3>" in page and 'id="curve-0-0"' in page
    assert 'id="curve-0-1"' not in page and "it cannot be run layer by layer: REJECTED" in page


def test_every_layer_s_time_is_in_the_page_and_the_terminal_has_the_slowest(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, explain=explain_layers(*([float(100 - k) for k in range(40)],) * 2))
    page, shown = report(folder, format="html"), report(folder)
    assert "24 other layers" in shown and "24 other rows" in shown and "layer 16" not in shown
    assert "other layers" not in page and "other rows" not in page
    cells = re.findall(r"<td[^>]*>(layer \d+)</td>", page)
    assert {name: cells.count(name) for name in cells} == {f"layer {k}": 3 for k in range(40)}


def test_the_time_of_each_layer_stands_in_both_files_beside_each_other(make_folder: Callable[..., Path]) -> None:
    explanation = explain_layers([30.0, 20.0], [10.0])
    folder = make_folder(fp32=EXPORT, explain=explanation)
    page = report(folder, format="html")
    (text,) = re.findall(r'id="charts">(.*?)</script>', page)
    chart = next(chart for chart in json.loads(text) if chart["name"] == "times-0")
    assert [(trace["name"], trace["x"], trace["y"]) for trace in chart["data"]] == [
        ("simplified", [1, 2], [30.0, 20.0]),
        ("int8", [1], [10.0]),
    ]
    assert "Where the time of simplified goes on cpu" in page
    assert "Where the time of simplified goes on cpu" in report(folder)
    found = json.loads(report(folder, format="json"))["explanation"]
    assert found["models"][0]["layers"][0]["samples_us"] == []
