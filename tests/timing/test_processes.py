"""Spreading a run over processes: how many follow, what each is asked for, and how their times are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hosts import HOST

from mbdeploy.targets import Answer, Job, Ran, Session
from mbdeploy.timing import processes
from mbdeploy.timing.processes import Spread, pool_processes, run_spread

JOB = Job(kind="bench", sessions=(Session(model=Path("m.onnx"), provider="P"),), min_rounds=31, min_duration_s=2.0)


class Counting:
    """A target that numbers its runs and keeps what it was asked."""

    name, emulated = "counting", False

    def __init__(self) -> None:
        self.asked: list[Job] = []

    def run(self, job: Job, on_progress: object = None) -> Answer:
        self.asked.append(job)
        on_progress("measuring", 5, 10)  # type: ignore[operator]
        number = len(self.asked)
        ran = Ran(
            wall_ns=(number, 10 * number),
            cpu_ns=(1, 2),
            warmup_ns=(3,),
            load_ns=number,
            first_ns=2 * number,
            energy_uj=5,
            energy_runs=3,
        )
        return Answer(host=HOST, sessions=(ran,), absent={})


def spread(count: int, longest_s: float = 1000.0) -> Spread:
    return Spread(processes=count, max_duration_s=longest_s, cool_down_s=0.0)


def run(target: Counting, how: Spread, enough_at: int) -> int:
    def is_enough(count: int) -> bool:
        return count >= enough_at

    def count(answers: Sequence[Answer]) -> int:
        return len(answers)

    return run_spread(target, JOB, how, count, is_enough)


@pytest.mark.parametrize(
    ("how", "enough_at", "expected"),
    [(spread(5), 0, 5), (spread(5), 9, 9), (spread(3, longest_s=0), 9, 3), (spread(1), 9, 1)],
)
def test_processes_follow_until_it_is_enough_or_time_is_up_and_one_stays_one(
    how: Spread, enough_at: int, expected: int
) -> None:
    target = Counting()
    assert run(target, how, enough_at) == expected == len(target.asked)


def test_each_process_does_its_share_rounded_up_and_those_that_follow_twice_as_much() -> None:
    target = Counting()
    run(target, spread(5), 7)
    asked = [(job.min_rounds, job.min_duration_s) for job in target.asked]
    assert asked == [(7, 0.4)] * 5 + [(14, 0.8)] * 2


def test_processes_rest_between_but_not_after_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", rests.append)
    run(Counting(), Spread(processes=3, max_duration_s=1000.0, cool_down_s=7.0), 4)
    assert rests == [7.0] * 3


def test_progress_runs_on_over_all_processes() -> None:
    seen: list[tuple[str, int, int]] = []
    run_spread(Counting(), JOB, spread(2), len, lambda count: count >= 3, lambda *step: seen.append(step))
    assert seen == [("measuring", 5, 20), ("measuring", 15, 20), ("measuring", 25, 30)]


def test_pooled_times_keep_the_number_of_their_process() -> None:
    target = Counting()
    answers = [target.run(JOB, lambda *step: None) for _ in range(2)]
    pooled, told = pool_processes(answers, 0)
    assert (pooled.wall_ns, pooled.cpu_ns, pooled.warmup_ns) == ((1, 10, 2, 20), (1, 2, 1, 2), (3, 3))
    assert told == {"process": (0, 0, 1, 1), "loads_ns": (1, 2), "firsts_ns": (2, 4), "energy_uj": 10, "energy_runs": 6}
