"""LoadGen's side of a scenario: who answers which sample, and what its log says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mbdeploy.timing.loadgen import Server, read_log, read_percentiles, read_rate


class Recorder:
    """A session that keeps the images that it was given."""

    def __init__(self, batch: int | None = None) -> None:
        self.batch = batch
        self.ran: list[list[float]] = []

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        self.ran.append([float(image) for image in images.reshape(len(images))])
        return []


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    done: list[int] = []
    stand_in: Any = ModuleType("mlperf_loadgen")
    stand_in.QuerySampleResponse = lambda number, data, size: number
    stand_in.QuerySamplesComplete = done.extend
    monkeypatch.setitem(sys.modules, "mlperf_loadgen", stand_in)
    return done


def ask(*indices: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(id=100 + index, index=index) for index in indices]


IMAGES = np.arange(4, dtype=np.float32).reshape(4, 1, 1, 1)


def test_a_query_is_cut_into_batches_and_every_sample_is_answered(completed: list[int]) -> None:
    session = Recorder()
    server = Server(session, IMAGES, 2, waits=False)
    server.issue(ask(3, 0, 1))
    server.close()
    assert session.ran == [[3, 0], [1]]
    assert completed == [103, 100, 101]


def test_a_fixed_batch_is_filled_up_and_only_the_asked_are_answered(completed: list[int]) -> None:
    session = Recorder(batch=4)
    Server(session, IMAGES, 4, waits=False).issue(ask(2, 1))
    assert session.ran == [[2, 1, 1, 1]]
    assert completed == [102, 101]


def test_a_server_answers_all_that_came_before_it_closes(completed: list[int]) -> None:
    session = Recorder()
    server = Server(session, IMAGES, 2, waits=True)
    for index in (0, 1, 2, 3, 0):
        server.issue(ask(index))
    server.close()
    assert completed == [100, 101, 102, 103, 100]
    assert [image for batch in session.ran for image in batch] == [0, 1, 2, 3, 0]
    assert all(len(batch) <= 2 for batch in session.ran)


def test_the_log_s_results_are_read_by_their_own_keys(tmp_path: Path) -> None:
    entries = {"result_validity": "VALID", "early_stopping_latency_ss": 5, "power_begin": "x"}
    lines = [f":::MLLOG {json.dumps({'key': key, 'value': value})}" for key, value in entries.items()]
    (tmp_path / "mlperf_log_detail.txt").write_text("\n".join(["noise", *lines]))
    assert read_log(tmp_path) == {"result_validity": "VALID", "early_stopping_latency_ss": 5}


def test_percentiles_and_rates_are_of_queries_where_queries_hold_several_samples() -> None:
    single = {"result_90.00_percentile_latency_ns": 7, "result_qps_with_loadgen_overhead": 3.0}
    assert (read_percentiles(single), read_rate(single)) == ({90.0: 7}, 3.0)
    multi = {
        **single,
        "result_99.00_percentile_per_query_latency_ns": 9,
        "result_mean_query_latency_ns": 4_000_000,
    }
    assert (read_percentiles(multi), read_rate(multi)) == ({99.0: 9}, 2000.0)
    assert (read_percentiles({}), read_rate({})) == ({}, 0.0)
