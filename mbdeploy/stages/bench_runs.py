"""Sessions that take turns, over several processes: from what is to be timed to a BenchRun."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.derive import is_decided
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.results import BenchRun, ModelRef, Series
from mbdeploy.stages.subject import Subject, entitle, name_provider
from mbdeploy.targets import Answer, Job, Provider, Ran, Session, Target
from mbdeploy.timing.processes import Spread, pool_processes, run_spread


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What takes a turn: a session, and the model that its rows are called after."""

    ref: ModelRef
    session: Session
    kind: str = "fp32"


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How a run is made and judged: the fields of BenchRun of these names, and the fewest pairs."""

    threads: int
    batch_size: int
    warmup: int | None
    min_duration_s: float
    max_duration_s: float
    min_pairs: int
    processes: int
    cool_down_s: float
    inputs: str
    tolerance: float
    seed: int
    require_placement: tuple[str, ...] = ()


def time_entries(
    target: Target,
    provider: Provider,
    entries: Sequence[Entry],
    images: NDArray[np.float32],
    plan: Plan,
    on_progress: Progress = ignore_progress,
) -> BenchRun:
    """Time the entries by turns, with the first one once more as the A/A control; memory in processes of their own."""
    peaks = []
    for index, entry in enumerate(entries):
        on_progress(f"memory on {provider.word}", index, len(entries))
        job = Job(
            kind="memory",
            sessions=(entry.session,),
            inputs=images[: plan.batch_size],
            batch_size=plan.batch_size,
        )
        peaks.append(target.run(job).sessions[0])
    job = Job(
        kind="bench",
        sessions=tuple(entry.session for entry in (*entries, entries[0])),
        inputs=images,
        batch_size=plan.batch_size,
        warmup=plan.warmup,
        min_duration_s=plan.min_duration_s,
        min_rounds=plan.min_pairs,
    )
    return run_spread(
        target,
        job,
        Spread(processes=plan.processes, max_duration_s=plan.max_duration_s, cool_down_s=plan.cool_down_s),
        partial(_make_run, provider, entries, peaks, plan),
        is_decided,
        entitle(on_progress, f"bench on {provider.word}"),
    )


def list_numbers(numbers: int | Sequence[int]) -> list[int]:
    """One number or several, each once."""
    return [numbers] if isinstance(numbers, int) else list(dict.fromkeys(numbers))


def check_numbers(**limits: tuple[float, float]) -> None:
    """Refuse a number below its lowest, which comes second."""
    for name, (value, lowest) in limits.items():
        if not value >= lowest:
            raise UsageError(where=name, expected=f"{lowest} or more", found=str(value), todo="give such a number")


def check_batch(subject: Subject, size: int) -> None:
    """Refuse a batch size that a model with a fixed one does not take."""
    if subject.signature.batch not in (None, size):
        raise UsageError(
            where=subject.path,
            expected=f"a batch of {size}",
            found=f"a model fixed to {subject.signature.batch}",
            todo=f"give --batch-size {subject.signature.batch}, or export it with a dynamic batch",
        )


def _make_run(
    provider: Provider, entries: Sequence[Entry], peaks: Sequence[Ran], plan: Plan, answers: Sequence[Answer]
) -> BenchRun:
    """What the processes so far found."""
    rows = zip((*entries, entries[0]), (*peaks, peaks[0]), strict=True)
    *series, control = (_make_series(entry, provider, answers, index, peak) for index, (entry, peak) in enumerate(rows))
    said: dict[str, Any] = msgspec.structs.asdict(plan)
    del said["min_pairs"]  # the samples say how many there are
    return BenchRun(
        provider=name_provider(provider, *(ran for answer in answers for ran in answer.sessions)),
        series=tuple(series),
        control=control,
        host=answers[0].host,
        when_utc=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        **said,
    )


def _make_series(entry: Entry, provider: Provider, answers: Sequence[Answer], index: int, peak: Ran) -> Series:
    ran, told = pool_processes(answers, index)
    return Series(
        model=entry.ref,
        provider=name_provider(provider, ran),
        wall_ns=ran.wall_ns,
        cpu_ns=ran.cpu_ns,
        load_ns=ran.load_ns,
        first_ns=ran.first_ns,
        warmup_ns=ran.warmup_ns,
        peak_bytes=peak.peak_bytes,
        base_bytes=peak.base_bytes,
        loaded_bytes=peak.loaded_bytes,
        placement=ran.placement,
        session=ran.settings,
        copy_ns=ran.copy_ns,
        kind=entry.kind,
        **told,
    )
