"""What is remembered of each kind of result, once, and never written again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from folders import (
    EXPORT,
    HOST,
    QUANTIZE,
    SIMPLIFY,
    evaluate,
    make_evaluation,
    make_metrics,
    make_parity,
    make_row,
    make_run,
    make_sweep,
    write_folder,
)

from mbdeploy import artifact
from mbdeploy.errors import DataError, OutputError, UnavailableError
from mbdeploy.remembering.measurement import classify_host
from mbdeploy.remembering.recording import remember

ROWS = [
    make_row("int8", "executed", "reference", make_metrics(sqnr_db=20.0)),
    make_row("int8", "executed", "reference", make_metrics(sqnr_db=18.0), output="second"),
    make_row("int8", "exact", "reference", make_metrics(sqnr_db=21.0)),
]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return [row for path in sorted(folder.iterdir()) for row in parquet.read_table(path).to_pylist()]


@pytest.fixture
def out(tmp_path: Path, needs_duckdb: None) -> Path:
    run = make_run(70)
    write_folder(tmp_path / "lite0", fp32=EXPORT, simplified=SIMPLIFY, int8=QUANTIZE)
    refs = [
        msgspec.structs.replace(series.model, sha256=artifact.digest_file(tmp_path / "lite0" / f"{name}.onnx"))
        for series, name in zip(run.series, ("simplified", "int8"), strict=True)
    ]
    series = [msgspec.structs.replace(one, model=ref) for one, ref in zip(run.series, refs, strict=True)]
    return write_folder(
        tmp_path / "lite0",
        bench=[msgspec.structs.replace(run, series=tuple(series), when_utc="2026-01-02T03:04:05Z")],
        parity=make_parity(*ROWS),
        evaluation=make_evaluation(evaluate("fp32", 80), evaluate("int8", 75)),
    )


def test_every_result_of_a_folder_becomes_one_file_with_a_row_a_number(out: Path, tmp_path: Path) -> None:
    done = remember([out], folder=tmp_path / "history")
    assert [(Path(one.file).name, one.models, one.known) for one in done.results] == [
        ("bench.json", ("lite0",), False),
        ("parity.json", ("lite0",), False),
        ("evaluation.json", ("lite0",), False),
    ]
    names = {path.name for path in (tmp_path / "history").iterdir()}
    assert names == {f"{artifact.hash_file(Path(one.file))}.parquet" for one in done.results}
    rows = {(row["variant"], row["metric"]): row for row in read_rows(tmp_path / "history")}
    ratio = rows["int8", "latency_ratio"]
    assert (ratio["value"], ratio["low"], ratio["high"], ratio["n"]) == (0.5, 0.5, 0.5, 70)
    assert (ratio["provider"], ratio["threads"], ratio["batch_size"]) == ("cpu", 1, 1)
    assert (ratio["basis"], ratio["dated"]) == ("CPU time, over simplified", "measured")
    assert ratio["when_utc"].isoformat() == "2026-01-02T03:04:05"
    assert (ratio["recipe"], rows["simplified", "latency_ms"]["recipe"]) == ("portable", "")
    assert rows["int8", "latency_ms"]["value"] == 5.0
    assert rows["simplified", "control_ratio"]["value"] == 1.0
    assert rows["int8", "peak_bytes"]["value"] == 100e6
    worst = rows["int8", "sqnr_db"]
    assert (worst["value"], worst["n"], worst["threads"], worst["dated"]) == (18.0, 32, None, "added")
    assert rows["int8", "exact_sqnr_db"]["value"] == 21.0
    assert (rows["int8", "top1"]["value"], rows["int8", "top1"]["n"]) == (0.75, 100)
    assert rows["int8", "top1"]["basis"] == "images, 333333333333"
    assert ratio["host_class"] == "A CPU, x86_64; avx2; 2 of 2 cores; onnxruntime 1.31.1"


def test_the_same_result_twice_is_one_and_is_not_written_again(out: Path, tmp_path: Path) -> None:
    history = tmp_path / "history"
    remember([out, out], folder=history)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in history.iterdir()}
    again = remember([out, out / "results" / "bench.json"], folder=history, model="another")
    assert all(one.known and one.rows == 0 for one in again.results) and len(again.results) == len(before) == 3
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in history.iterdir()} == before


def test_a_sweep_gives_what_its_runs_say_and_quality_without_a_host(tmp_path: Path, needs_duckdb: None) -> None:
    artifact.write_json(tmp_path / "family" / "sweep.json", make_sweep(("cpu", 1), ("cpu", 2), top1=True))
    remember([tmp_path / "family"], folder=tmp_path / "history")
    rows = read_rows(tmp_path / "history")
    assert {row["model"] for row in rows} == {"small", "large"}
    assert [(row["threads"], row["value"]) for row in rows if row["metric"] == "latency_ratio"] == [
        (1, 0.9),
        (2, 0.9),
        (1, 0.5),
        (2, 0.5),
    ]
    quality = [row for row in rows if row["metric"] == "sqnr_db"]
    assert [(row["recipe"], row["value"]) for row in quality] == [
        ("", 120.0),
        ("portable", 20.0),
        ("", 120.0),
        ("portable", 25.0),
    ]
    assert {row["host_class"] for row in quality} == {"host not recorded"}


def test_an_output_that_may_not_be_believed_is_remembered_as_no_number(tmp_path: Path, needs_duckdb: None) -> None:
    bad = make_metrics(sqnr_db=float("nan"), degenerate="constant output")
    parity = make_parity(ROWS[0], make_row("int8", "executed", "reference", bad, output="second"))
    remember([write_folder(tmp_path / "lite0", fp32=EXPORT, parity=parity)], folder=tmp_path / "history")
    (row,) = [row for row in read_rows(tmp_path / "history") if row["metric"] == "sqnr_db"]
    assert row["value"] != row["value"]


def test_a_version_is_said_only_if_the_result_s_sidecar_says_it(out: Path, tmp_path: Path) -> None:
    provenance = artifact.Provenance(stage="bench", params={}, parents={}, tools={"mbdeploy": "9.9"})
    artifact.write_sidecar(out / "results" / "bench.json", provenance, None)
    remember([out], folder=tmp_path / "history")
    found = {row["source"]: row["mbdeploy"] for row in read_rows(tmp_path / "history")}
    assert found == {"bench": "9.9", "verify": "", "evaluate": ""}


def test_a_host_keeps_its_class_whatever_did_not_run_there() -> None:
    versions = {"python": "3.12", "onnxruntime": "1.31.1", "openvino": "2026.4", "onnxruntime-qnn": "2.7"}
    other = msgspec.structs.replace(HOST, system="Linux 7", memory_bytes=1, versions=versions)
    assert classify_host(other, "cpu@ssh:pi") == classify_host(HOST, "cpu")
    assert classify_host(other, "openvino")["runtime"] == "openvino 2026.4"
    assert classify_host(other, "qnn")["runtime"] == "onnxruntime 1.31.1, onnxruntime-qnn 2.7"
    for change in ({"cpu": "B"}, {"isa": ()}, {"affinity": 1}, {"cgroup_cores": 0.5}, {"emulator": "qemu"}):
        one = msgspec.structs.replace(HOST, **change)
        assert classify_host(one, "cpu")["host_class"] != classify_host(HOST, "cpu")["host_class"], change


@pytest.mark.parametrize("text", ["{", "[]", "[1]", "{}", '{"runs": 3}', '{"rows": []}', "[" * 5000])
def test_what_is_no_result_is_refused_and_nothing_is_written(tmp_path: Path, text: str, needs_duckdb: None) -> None:
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DataError, match=r"odd\.json: expected a result of bench, verify, evaluate or sweep"):
        remember([tmp_path / "odd.json"], folder=tmp_path / "history")
    with pytest.raises(DataError, match="none of them"):
        remember([tmp_path], folder=tmp_path / "history")
    with pytest.raises(DataError, match="no such file or folder"):
        remember([tmp_path / "absent"], folder=tmp_path / "history")
    assert not (tmp_path / "history").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"when_utc": "soon"},
        {"when_utc": "0001-01-01T00:00:00Z"},
        {"threads": 2**63},
        {"series": ()},
        {"batch_size": 0, "series": (msgspec.structs.replace(make_run(70).series[0], energy_uj=1, energy_runs=1),)},
    ],
)
def test_a_run_whose_parts_do_not_fit_is_refused(tmp_path: Path, needs_duckdb: None, change: dict[str, Any]) -> None:
    artifact.write_json(tmp_path / "odd.json", [msgspec.structs.replace(make_run(70), **change)])
    with pytest.raises(DataError, match=r"odd\.json: expected a result"):
        remember([tmp_path / "odd.json"], folder=tmp_path / "history")
    assert not (tmp_path / "history").exists()


def test_a_folder_that_cannot_be_written_is_refused_with_the_option_that_names_it(out: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another place with --folder"):
        remember([out], folder=tmp_path / "file" / "history")


def test_without_duckdb_the_refusal_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "duckdb" else find(name))
    with pytest.raises(UnavailableError, match=r"found no duckdb; run `pip install mbdeploy\[history\]`") as caught:
        remember([tmp_path], folder=tmp_path / "history")
    assert caught.value.exit_code == 3


def test_a_single_file_is_of_the_folder_that_its_models_lay_in(add_run: Callable[..., Path]) -> None:
    names = {row["model"] for row in read_rows(add_run("01", model=""))}
    assert names == {Path.cwd().name}  # by hand its models are simplified.onnx and int8.onnx, here
