"""Tuning: only sets that answer the same are chosen, and only if a run of their own confirms them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mbdeploy.errors import UsageError
from mbdeploy.results import decode_result, encode_result
from mbdeploy.stages import bench_tune
from mbdeploy.stages.bench_tune import TuneResult, tabulate_tuning, tune
from mbdeploy.targets import Answer, Job, Session
from mbdeploy.targets.fake import FakeTarget

Write = Callable[..., Path]


@dataclasses.dataclass
class Lab:
    """A machine without noise on which sessions take and answer as ``time_of`` and ``error_of`` say."""

    time_of: Callable[[Session], int]
    error_of: Callable[[Session], float]
    asked: list[Job] = dataclasses.field(default_factory=list)
    name: str = "local"
    emulated: bool = False

    def run(self, job: Job, on_progress: Any = None) -> Answer:
        self.asked.append(job)
        fake = FakeTarget(
            answer=lambda session, inputs: [inputs.mean(axis=(2, 3)) + self.error_of(session)],
            time_ns=lambda index, session, number: self.time_of(session),
        )
        return fake.run(job)


@pytest.fixture
def open_lab(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Lab]:
    def make(time_of: Callable[[Session], int], error_of: Callable[[Session], float] = lambda session: 0.0) -> Lab:
        lab = Lab(time_of, error_of)
        monkeypatch.setattr(bench_tune, "open_target", lambda provider: lab)
        return lab

    return make


def find_times(result: TuneResult) -> Sequence[str]:
    return [series.model.name for series in result.runs[-1].series]


@pytest.mark.slow
def test_the_fastest_of_each_group_are_confirmed_together(
    open_lab: Callable[..., Lab], write_mean_model: Write, mean_golden: Path
) -> None:
    open_lab(lambda session: 1_000_000 - 100_000 * (session.model.suffix == ".ort") - 50_000 * (not session.arena))
    result = tune(write_mean_model(), inputs=mean_golden, warmup=0, cool_down=0)
    assert result.chosen == "ORT format + no arena"
    assert len(result.runs) == 2 and find_times(result) == ["defaults", "ORT format + no arena"]
    assert "enable_cpu_mem_arena = False" in result.code and "'fp32.optimised.ort'" in result.code
    assert decode_result(encode_result(result), TuneResult) == result
    assert tabulate_tuning(result)[-1].rows == (
        ("ORT format + no arena", "0.850 [0.850, 0.850] of the defaults' time"),
    )


@pytest.mark.slow
def test_a_faster_set_with_other_answers_is_not_chosen(
    open_lab: Callable[..., Lab], write_mean_model: Write, mean_golden: Path
) -> None:
    open_lab(
        lambda session: 500_000 if session.optimization == "basic" else 1_000_000,
        lambda session: 0.1 * (session.optimization == "basic"),
    )
    result = tune(write_mean_model(), inputs=mean_golden, warmup=0, cool_down=0)
    assert result.chosen == "defaults" and len(result.runs) == 1
    assert [found.correct for found in result.answers if found.name == "basic"] == [False]
    first, use = tabulate_tuning(result)
    assert next(row for row in first.rows if row[0] == "basic")[3].startswith("OTHER")
    assert use.rows == (("defaults", "no correct set is faster"),)


@pytest.mark.slow
def test_what_a_second_run_does_not_confirm_is_not_chosen(
    open_lab: Callable[..., Lab], write_mean_model: Write, mean_golden: Path
) -> None:
    def take(session: Session) -> int:
        benches = sum(job.kind == "bench" for job in lab.asked)
        return 900_000 if not session.arena and benches <= 5 else 1_000_000

    lab = open_lab(take)
    result = tune(write_mean_model(), inputs=mean_golden, warmup=0, cool_down=0)
    assert (result.chosen, len(result.runs)) == ("defaults", 2)


@pytest.mark.parametrize("provider", ["openvino", "cpu@qemu:haswell"])
def test_only_onnx_runtime_on_this_machine_is_tuned(provider: str, write_mean_model: Write) -> None:
    with pytest.raises(UsageError, match="on this machine"):
        tune(write_mean_model(), provider=provider)


@pytest.mark.slow
def test_a_real_model_is_tuned(write_mean_model: Write, mean_golden: Path) -> None:
    result = tune(
        write_mean_model(), inputs=mean_golden, warmup=0, min_duration=0, min_pairs=12, processes=1, tolerance=1.0
    )
    assert [found.correct for found in result.answers] == [True] * 6
    assert len(result.runs[0].series) == 7
