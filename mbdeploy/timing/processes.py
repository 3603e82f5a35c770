"""Fresh processes, one after the other, until what they found together is enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec

from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.targets.job import Answer, Job, Ran, Target

T = TypeVar("T")


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is spread: over ``processes`` at least, at most ``max_duration_s``, with rests of ``cool_down_s``."""

    processes: int
    max_duration_s: float
    cool_down_s: float


def run_spread(
    target: Target,
    job: Job,
    spread: Spread,
    pool: Callable[[Sequence[Answer]], T],
    is_enough: Callable[[T], bool],
    on_progress: Progress = ignore_progress,
) -> T:
    """Run a bench job in fresh processes, each with its share of rounds and seconds; what ``pool`` makes of them all.

    Rules: 1. ``spread.processes`` are run in any case. 2. More follow until that ``is_enough``, as long as another one
    would not take the run beyond ``max_duration_s``; each takes twice the share, since on a busy machine most of the
    spread lies within processes. 3. A run of one process stays one: what several would add, how processes differ,
    nobody asked for.
    """
    share = msgspec.structs.replace(
        job,
        min_rounds=-(-job.min_rounds // spread.processes),
        min_duration_s=job.min_duration_s / spread.processes,
    )
    double = msgspec.structs.replace(share, min_rounds=2 * share.min_rounds, min_duration_s=2 * share.min_duration_s)
    began = time.monotonic()
    answers: list[Answer] = []
    while True:
        asked = share if len(answers) < spread.processes else double
        answers.append(target.run(asked, _extend(on_progress, len(answers), spread.processes)))
        if len(answers) >= spread.processes:
            pooled, took_s = pool(answers), time.monotonic() - began
            is_late = took_s + took_s / len(answers) > spread.max_duration_s
            if spread.processes == 1 or is_late or is_enough(pooled):
                return pooled
        time.sleep(spread.cool_down_s)


def pool_processes(answers: Sequence[Answer], index: int) -> tuple[Ran, dict[str, Any]]:
    """Session ``index`` of all processes as one: its times in a row, and the fields of Series that tell them apart."""
    parts = [answer.sessions[index] for answer in answers]
    joined = {
        name: tuple(chain.from_iterable(getattr(part, name) for part in parts))
        for name in ("wall_ns", "cpu_ns", "warmup_ns", "copy_ns")
    }
    told = {
        "process": tuple(number for number, part in enumerate(parts) for _ in part.wall_ns),
        "loads_ns": tuple(part.load_ns for part in parts),
        "firsts_ns": tuple(part.first_ns for part in parts),
        "energy_uj": sum(part.energy_uj for part in parts),
        "energy_runs": sum(part.energy_runs for part in parts),
    }
    return msgspec.structs.replace(parts[0], **joined), told


def _extend(on_progress: Progress, index: int, expected: int) -> Progress:
    """The Progress of process ``index`` as part of that of all."""
    of = max(expected, index + 1)
    return lambda what, done, total: on_progress(what, index * total + done, of * total)
