"""MLPerf's scenarios: what is refused, how LoadGen's verdict is shown, and a run where LoadGen is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hosts import HOST

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.results import ModelRef, Placement, decode_result, encode_result
from mbdeploy.stages import bench_scenario
from mbdeploy.stages.bench_scenario import ScenarioRun, judge_scenario, run_scenario, tabulate_scenario

Write = Callable[..., Path]


def make_run(scenario: str, results: dict[str, Any], **asked: float) -> ScenarioRun:
    return ScenarioRun(
        model=ModelRef(name="m", path="m.onnx", sha256="0", size_bytes=1),
        provider="cpu",
        scenario=scenario,
        preset="rapid",
        threads=1,
        batch_size=1,
        seed=0,
        inputs="photos",
        asked={"queries": 64, "seconds": 6.0, **asked},
        results=results,
        placement=Placement(nodes={}, operators={}),
        session={},
        host=HOST,
        tools={},
        logs="",
    )


def list_percentiles(**values: float) -> dict[str, Any]:
    return {f"result_{name[1:]}.00_percentile_latency_ns": value * 1e6 for name, value in values.items()}


def test_a_percentile_is_shown_only_if_the_queries_carry_it_and_the_bound_beside_it() -> None:
    results = {
        **list_percentiles(p50=2, p90=3, p99=5),
        "result_validity": "VALID",
        "result_query_count": 191,
        "early_stopping_latency_ss": 3_500_000,
        "early_stopping_latency_ms": 0,
        "result_qps_with_loadgen_overhead": 450.0,
    }
    run = make_run("single-stream", results)
    [table] = tabulate_scenario([run])
    assert table.rows == (("m", "2.00", "3.00", "n/a", "3.50", "450", "valid"),)
    assert judge_scenario(run).passed is True


def test_a_run_that_loadgen_calls_invalid_is_inconclusive_and_says_why() -> None:
    results = {
        "result_validity": "INVALID",
        "result_query_count": 64,
        "early_stopping_result": " * Only processed 64 queries.  * Need to process at least 662 queries.",
    }
    run = make_run("server", results, server_target_qps=10.0, server_target_latency_ns=20e6)
    check = judge_scenario(run)
    assert (check.passed, check.note) == (None, "Only processed 64 queries. Need to process at least 662 queries.")
    [table] = tabulate_scenario([run])
    assert table.rows[0][-1] == "INVALID"
    assert table.notes[-1].startswith("Poisson arrivals, 10 queries a second; valid if their p99 is below 20.00 ms")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenario": "parallel"}, "single-stream"),
        ({"scenario": "server", "preset": "long"}, "rapid"),
        ({"scenario": "server", "target_qps": -1.0}, "or more"),
    ],
)
def test_unknown_words_are_refused(options: dict[str, Any], message: str, write_mean_model: Write) -> None:
    with pytest.raises(UsageError, match=message):
        run_scenario([write_mean_model()], **options)


def test_without_loadgen_the_error_is_the_command_that_installs_it(
    write_mean_model: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_scenario.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match="`pip install mlcommons-loadgen`"):
        run_scenario([write_mean_model()], scenario="offline")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlperf_loadgen") is None, reason="needs mlcommons-loadgen")
def test_a_single_stream_runs_and_its_logs_are_kept(write_mean_model: Write, mean_golden: Path, tmp_path: Path) -> None:
    [run] = run_scenario(
        [write_mean_model()], scenario="single-stream", preset="rapid", inputs=mean_golden, logs=tmp_path / "logs"
    )
    assert run.results["result_query_count"] >= 64
    assert judge_scenario(run).passed is True
    assert (tmp_path / "logs" / "mlperf_log_summary.txt").read_text()
    assert decode_result(encode_result(run), ScenarioRun) == run
