"""The report is a pure function of a folder's files: what they say is shown, what they do not say is not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from folders import (
    EXPORT,
    PLACEMENT,
    QUANTIZE,
    SIMPLIFY,
    evaluate,
    make_evaluation,
    make_metrics,
    make_parity,
    make_row,
    make_run,
)

from mbdeploy.artifact import digest_file, write_json
from mbdeploy.errors import DataError, UsageError
from mbdeploy.results import Check, ParityRow
from mbdeploy.stages.facts import derive_parity
from mbdeploy.stages.figures import tabulate_parity
from mbdeploy.stages.report import SEEDED, read_report, report, tabulate_side_by_side


def test_a_folder_without_results_is_refused_and_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no fp32.onnx.*run `mbdeploy run` first"):
        report(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        report(tmp_path / "absent")


def test_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="table, md, json, html"):
        report(tmp_path, format="pdf")


def test_a_result_that_is_torn_or_foreign_is_refused_by_name(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, bench=[make_run(40)])
    path = folder / "results" / "bench.json"
    for text in (path.read_text()[:-20], '[{"provider": "cpu"}]', "[]x", '{"a": 1}'):
        path.write_text(text)
        with pytest.raises(DataError, match=r"bench\.json: expected a result"):
            report(folder)


def test_what_was_not_measured_is_left_out(make_folder: Callable[..., Path]) -> None:
    shown = report(make_folder(fp32=EXPORT))
    assert "Export" in shown
    assert not any(word in shown for word in ("Simplify", "Quantize", "Parity", "Gates", "Latency", "Accuracy"))


def test_seeded_weights_are_said_loudly_and_trained_ones_are_not(make_folder: Callable[..., Path]) -> None:
    seeded = msgspec.structs.replace(EXPORT, trained=False)
    for shape in ("table", "md"):
        assert SEEDED in report(make_folder(fp32=seeded), format=shape)
        assert "SEEDED" not in report(make_folder(fp32=EXPORT), format=shape)


def test_every_stage_s_own_facts_are_shown(make_folder: Callable[..., Path]) -> None:
    shown = report(make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE))
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert lines[:3] == ["Files of lite0", "", "file MB of fp32.onnx sha256"]
    for expected in (
        "max |torch - ONNX Runtime| 1.5e-05 over 32 images",
        "onnxsim CRASHED (rewrites only)",
        "detail killed by SIGSEGV",
        "rewrite mean_to_global_pool 2 x",
        "operators GlobalAveragePool 0 -> 2, ReduceMean 2 -> 0",
        "calibration minmax, 128 images of photos",
        "would clip without care 1 of 1 layers on AVX2",
        "stem 1.25 1.75 50 %",
        "gate HardSigmoid has no INT8 kernel",
    ):
        assert expected in lines


def test_parity_shows_executed_beside_exact_and_the_gates(make_folder: Callable[..., Path]) -> None:
    gate = Check(name="sqnr_db", subject="int8 on cpu", value=18.25, bound=20.0, comparison=">=", passed=False)
    rows = (
        make_row("int8", "executed", "reference", make_metrics(sqnr_db=18.25, max_lsb=9.0)),
        make_row("int8", "exact", "reference", make_metrics(sqnr_db=21.5)),
        make_row("int8", "executed", "exact", make_metrics(sqnr_db=20.0, max_lsb=7.0)),
    )
    shown = report(make_folder(int8=QUANTIZE, parity=make_parity(*rows, checks=(gate,))))
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "int8 cpu 18.25 21.5 96.9 % 0.25 0.997 7" in lines
    assert "int8 on cpu sqnr_db 18.2 >= 20 FAIL" in lines
    assert "Parity over 32 images" in lines


def test_a_degenerate_output_has_no_numbers_but_a_reason() -> None:
    nan = math.nan
    bad = make_metrics(max_abs=nan, sqnr_db=nan, cosine=nan, top1_agreement=None, degenerate="constant output: 3")
    (table,) = tabulate_parity(_derive(make_row("int8", "executed", "reference", bad)))
    assert table.rows == (("int8", "cpu", "n/a", "n/a", "n/a", "n/a", "n/a", "n/a"),)
    assert table.notes[0] == "int8 on cpu: constant output: 3"


def test_equal_outputs_are_called_equal_and_not_infinite() -> None:
    same = make_metrics(sqnr_db=math.inf, max_abs=0.0)
    (table,) = tabulate_parity(_derive(make_row("simplified", "executed", "reference", same)))
    assert table.rows[0][2] == "equal"


def test_numbers_that_json_lacks_survive_in_a_folder(make_folder: Callable[..., Path]) -> None:
    same = make_row("int8", "executed", "exact", make_metrics(sqnr_db=math.inf, max_abs=0.0))
    broken = make_row("int8", "executed", "reference", make_metrics(sqnr_db=math.nan, degenerate="empty: shape (0,)"))
    (fact,) = read_report(make_folder(int8=QUANTIZE, parity=make_parity(broken, same))).parity
    assert fact.saturation is not None and fact.saturation.sqnr_db == math.inf
    assert fact.executed is not None and math.isnan(fact.executed.sqnr_db)


def test_nodes_that_ran_on_another_provider_are_named() -> None:
    placement = msgspec.structs.replace(PLACEMENT, elsewhere=("Resize up", "TopK k"))
    row = make_row("int8", "executed", "reference", make_metrics(), placement=placement, provider="cuda")
    (table,) = tabulate_parity(_derive(row))
    assert table.notes[0] == "int8 on cuda: 2 nodes ran elsewhere: Resize up, TopK k"


def test_several_outputs_are_rows_of_their_own() -> None:
    rows = [make_row("net", "executed", "reference", make_metrics(), output=name) for name in ("p3", "p4")]
    (table,) = tabulate_parity(_derive(*rows))
    assert [row[0] for row in table.rows] == ["net: p3", "net: p4"]


def test_latency_is_the_ratio_of_pairs_and_percentiles_only_where_samples_carry_them(
    make_folder: Callable[..., Path],
) -> None:
    lines = [
        " ".join(line.split()) for line in report(make_folder(fp32=EXPORT, bench=[make_run(70, 0.5)])).splitlines()
    ]
    assert "simplified baseline 10.00 10.00 n/a 100 70" in lines
    assert "int8 0.500 [0.500, 0.500] 5.00 5.00 n/a 200 70" in lines
    assert "The baseline against itself (A/A): 1.000 [1.000, 1.000], pass." in lines
    assert "int8 0.00 MB 50.00 9.00 100.00 MB 20.00 MB 20.00 MB" in lines
    assert "int8 on cpu cpu time ratio 0.5 <= 1.05 pass" in lines


def test_too_few_pairs_are_inconclusive(make_folder: Callable[..., Path]) -> None:
    found = read_report(make_folder(fp32=EXPORT, bench=[make_run(4)]))
    assert [check.passed for check in found.latency[0].checks] == [None, None]
    assert "inconclusive" in report(make_folder(fp32=EXPORT, bench=[make_run(4)]))


def test_accuracy_has_n_intervals_and_the_paired_difference(make_folder: Callable[..., Path]) -> None:
    evaluation = make_evaluation(evaluate("fp32", 80), evaluate("int8", 75))
    shown = report(make_folder(fp32=EXPORT, evaluation=evaluation))
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "fp32 cpu 80.0 [71.1, 86.7] 100.0 [96.3, 100.0] 100" in lines
    row = next(line for line in lines if line.startswith("int8 5 of 100"))
    assert row.startswith("int8 5 of 100 +0 -5 -5.0 [")


def test_json_has_its_schema_version_and_the_derived_figures(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, bench=[make_run(70)])
    found = json.loads(report(folder, format="json"))
    assert found["schema_version"] == 1
    assert found["model"] == "lite0"
    assert [file["size_bytes"] for file in found["files"]] == [4_000_000, 2_000_000, 1_333_333]
    assert found["latency"][0]["models"][1]["ratio"]["value"] == 0.5
    assert found["quantize"]["layers"][0]["growth_max"] == 1.75


def test_a_result_of_another_file_than_the_one_here_is_called_stale(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, bench=[make_run(70)])
    note = "results/bench.json is of another simplified than the one that is here: measure it again"
    assert read_report(folder).stale == (note,)
    assert note in report(folder, format="md").replace("\\", "")
    assert note in report(folder, format="html")
    run = make_run(70)
    here = msgspec.structs.replace(run.series[0].model, sha256=digest_file(folder / "simplified.onnx"))
    series = (msgspec.structs.replace(run.series[0], model=here), run.series[1])
    make_folder(fp32=EXPORT, simplified=SIMPLIFY, bench=[msgspec.structs.replace(run, series=series)])
    assert read_report(folder).stale == ()


def test_the_same_files_give_the_same_report(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, bench=[make_run(70)])
    assert [report(folder, format=shape) for shape in ("table", "md", "json")] == [
        report(folder, format=shape) for shape in ("table", "md", "json")
    ]


def test_markdown_starts_with_the_model_s_name_and_the_terminal_text_fits_80_columns(
    make_folder: Callable[..., Path],
) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, bench=[make_run(70)])
    assert report(folder, format="md").startswith("# lite0\n\n### Files of lite0\n")
    assert max(map(len, report(folder).splitlines())) <= 80


def test_side_by_side_shows_only_what_was_measured(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE)
    assert tabulate_side_by_side(read_report(folder)).rows == (("size", "2.00 MB", "1.33 MB"),)
    rows = [make_row(name, "executed", "reference", make_metrics()) for name in ("simplified", "int8")]
    folder = make_folder(
        fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, parity=make_parity(*rows), bench=[make_run(70)]
    )
    assert tabulate_side_by_side(read_report(folder)).rows == (
        ("size", "2.00 MB", "1.33 MB"),
        ("SQNR of the outputs, dB", "21.5", "21.5"),
        ("same best class, 32 images", "96.9 %", "96.9 %"),
        ("ms an image, 1 thread", "10.00", "5.00"),
        ("CPU time, paired", "baseline", "0.500 [0.500, 0.500]"),
        ("peak memory of a process", "100.00 MB", "100.00 MB"),
    )


def _derive(*rows: ParityRow) -> Any:
    return derive_parity(make_parity(*rows))


def test_times_that_check_took_again_in_full_are_the_ones_that_count(make_folder: Callable[..., Path]) -> None:
    folder = make_folder(fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE, bench=[make_run(40, 1.25)])
    confirmed = make_run(40, 0.75)
    write_json(folder / "results/bench-confirm.json", [confirmed])
    found = read_report(folder)
    assert [fact.models[1].ratio and fact.models[1].ratio.value for fact in found.latency] == [0.75]
    assert [host.measured for host in found.hosts] == [("results/bench-confirm.json: cpu",)]
    page = report(folder, format="html")
    assert "results/bench-confirm.json" in page and "the same again in full, by check" in page
    series = tuple(
        msgspec.structs.replace(one, model=msgspec.structs.replace(one.model, sha256="1" * 64))
        for one in confirmed.series
    )
    write_json(folder / "results/bench-confirm.json", [msgspec.structs.replace(confirmed, series=series)])
    found = read_report(folder)  # of other files: the quick run of these counts
    assert [fact.models[1].ratio and fact.models[1].ratio.value for fact in found.latency] == [1.25]
