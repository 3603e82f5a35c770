"""Sweeps: one table a provider, checks that say which run they are of, and a page that holds the same figures."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from mbdeploy.stages.bench import bench
from mbdeploy.stages.bench_sweep import render_sweep, tabulate_runs, write_page
from mbdeploy.stages.facts import LatencyFacts, derive_latency
from mbdeploy.targets import Session
from mbdeploy.targets.fake import FakeTarget

Run = Callable[..., list[LatencyFacts]]


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    return [2 * inputs.mean(axis=(2, 3))]


def take_by_threads(index: int, session: Session, number: int) -> int:
    return {1: 4_000_000, 2: 2_500_000}[session.threads] + (500_000 if index == 1 else 0)


@pytest.fixture
def run(write_mean_model: Callable[..., Path], mean_golden: Path, plug_fake: Callable[[str, FakeTarget], str]) -> Run:
    word = plug_fake("clockwork", FakeTarget(answer=answer_mean, time_ns=take_by_threads))
    models = [write_mean_model(), write_mean_model("<b>&.onnx")]
    timed = partial(bench, models, inputs=mean_golden, providers=[word], cool_down=0)
    return lambda **options: [derive_latency(run) for run in timed(**options)]


def test_runs_of_one_provider_share_a_table_in_their_order(run: Run) -> None:
    table, gates = tabulate_runs(run(threads=(1, 2), batch_size=(1, 8)))
    assert [row[:3] for row in table.rows[::2]] == [
        ("fp32", "1", "1"),
        ("fp32", "1", "2"),
        ("fp32", "8", "1"),
        ("fp32", "8", "2"),
    ]
    assert table.rows[1][3:7] == ("1.125 [1.125, 1.125]", "4.50", "n/a", "222.2")
    assert table.rows[7][6] == f"{8e9 / 3_000_000:.4g}"
    assert [row[0].partition(", ")[2] for row in gates.rows[::2]] == [
        "1 thread, batch 1",
        "2 threads, batch 1",
        "1 thread, batch 8",
        "2 threads, batch 8",
    ]


def test_a_single_run_keeps_its_own_tables_and_has_no_page(run: Run, tmp_path: Path) -> None:
    facts = run()
    tables = tabulate_runs(facts)
    assert [table.title for table in tables][1:] == ["Start and memory, each in a fresh process", "Gates"]
    assert tables[2].rows[0][0] == f"fp32 on {facts[0].models[0].provider}"
    assert write_page(tmp_path / "r.json", facts) is None
    assert list(tmp_path.glob("*.html")) == []


def test_the_page_draws_every_run_and_escapes_names(run: Run, tmp_path: Path) -> None:
    facts = run(threads=(1, 2))
    page = write_page(tmp_path / "r.json", facts)
    assert page == tmp_path / "r.html"
    text = page.read_text()
    assert text == render_sweep([facts])
    assert text.count("<circle") == 2 * 2 * 2  # charts, models, numbers of threads
    assert "<b>&" not in text and "&lt;b&gt;&amp;" in text
    assert "1.125 [1.125, 1.125]" in text
