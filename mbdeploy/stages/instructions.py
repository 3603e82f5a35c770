"""Instructions that emulated CPUs execute for one inference: how much work, never how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.results import Host, ModelRef
from mbdeploy.stages.subject import plan_session, read_subjects
from mbdeploy.stages.tables import Table
from mbdeploy.targets import Job, open_target, parse_provider
from mbdeploy.targets.emulation.counter import count_instructions
from mbdeploy.targets.process import ProcessTarget

_LARGEST = (3, 224, 224)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """The counts of one model's runs; the least is the model's, the rest of the others is the system's."""

    model: ModelRef
    instructions: tuple[int, ...]


class InstructionRun(msgspec.Struct, frozen=True, kw_only=True):
    """Models on one emulated CPU, one thread, one batch of ``batch_size`` images."""

    provider: str
    host: Host
    batch_size: int
    models: tuple[Counted, ...]


def count(
    models: Sequence[Path],
    *,
    providers: Sequence[str] = ("arm",),
    batch_size: int = 1,
    seed: int = 0,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    on_progress: Progress = ignore_progress,
) -> list[InstructionRun]:
    """Count the instructions of an inference of each model on emulated CPUs, three times.

    Rules: 1. images are noise from ``seed``: kernels do the same work whatever they show. 2. One thread:
    threads that wait for each other execute instructions, too.

    Raises:
        UsageError: a target with a real CPU. UnavailableError: no C compiler, no qemu, or one without plugins.
    """
    subjects = read_subjects(models)
    runs = []
    for provider in map(parse_provider, dict.fromkeys(providers)):
        target = open_target(provider)
        if not isinstance(target, ProcessTarget) or not target.emulated:
            raise UsageError(
                where=provider.word,
                expected="an emulated CPU, whose instructions can be counted",
                found="a real one",
                todo="name one, as in arm@qemu:cortex-a53 or cpu@qemu:haswell; time real ones without --instructions",
            )
        counted = []
        for subject in subjects:
            shape = (subject.signature.batch or batch_size, *(subject.signature.image_shape or _LARGEST))
            job = Job(
                kind="infer",
                sessions=(
                    plan_session(subject, provider, provider_options=provider_options, session_config=session_config),
                ),
                inputs=np.random.default_rng(seed).standard_normal(shape, dtype=np.float32),
                batch_size=shape[0],
            )
            answer, [counts] = count_instructions(target, job, on_progress)
            counted.append(Counted(model=subject.ref, instructions=counts))
        runs.append(
            InstructionRun(provider=provider.word, host=answer.host, batch_size=batch_size, models=tuple(counted))
        )
    return runs


def tabulate_instructions(runs: Sequence[InstructionRun]) -> list[Table]:
    """One table a CPU: the least count of each model, and its ratio to the first one's."""
    return [_tabulate_one(run) for run in runs]


def _tabulate_one(run: InstructionRun) -> Table:
    rounds = len(run.models[0].instructions)
    note = f"executed for one batch of {run.batch_size}, least of {rounds}; instructions are not time"
    return Table(
        title=f"Instructions on {run.provider} ({run.host.cpu})",
        columns=("model", "instructions", "ratio"),
        rows=tuple(_describe(row, run.models[0]) for row in run.models),
        notes=(note,),
    )


def _describe(row: Counted, first: Counted) -> tuple[str, ...]:
    least = min(row.instructions)
    return row.model.name, f"{least / 1e6:.1f} M", f"{least / min(first.instructions):.3f}"
