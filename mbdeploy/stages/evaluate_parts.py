"""An evaluation in parts: here one after the other, with the next images decoded meanwhile, or on many workers."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.card import Preprocess
from mbdeploy.data import Batch, Dataset, Sample, load_batches
from mbdeploy.data.arrays import RangeCheck
from mbdeploy.data.prefetching import prefetch
from mbdeploy.errors import UsageError
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.executing.worker import read_versions
from mbdeploy.isolate import Progress
from mbdeploy.stages.evaluate_job import BLOCK, Seen, read_shard, see_answers
from mbdeploy.stages.subject import Subject, check_inputs, plan_session
from mbdeploy.targets import Job, Provider, Target, find_device, open_target

#: Some images, and what they gave, in the order of the images.
Parts = Generator[tuple[Sequence[Sample], Seen], None, None]
_FEWEST, _MOST, _SHARDS = 64, 512, 16


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What is evaluated: these models on this provider; ``session`` are keywords of ``plan_session``."""

    subjects: Sequence[Subject]
    dataset: Dataset
    preprocess: Preprocess | None
    provider: Provider
    session: dict[str, Any]


def see_here(task: Task, target: Target, batch_size: int, on_progress: Progress) -> Parts:
    """The images in batches, one after the other in this process; the next batch is decoded meanwhile."""
    sessions = tuple(plan_session(subject, task.provider, **task.session) for subject in task.subjects)
    batches = load_batches(task.dataset, task.preprocess, batch_size=batch_size)
    before, total = 0, len(task.dataset)
    with contextlib.closing(prefetch(batches)) as ready:
        for batch in ready:
            check_inputs(task.subjects, batch.inputs.shape, task.dataset.source)
            shift = functools.partial(_shift_progress, on_progress, task.provider.word, batch, before, total)
            answer = target.run(Job(kind="infer", sessions=sessions, inputs=batch.inputs), shift)
            after = before + len(batch.names)
            yield task.dataset.samples[before:after], see_answers(task.subjects, task.provider, answer)
            before = after


def see_shared(
    task: Task,
    *,
    workers: int | None,
    cluster: str | None,
    shard_size: int | None,
    store: Path,
    on_link: Callable[[str], None],
    on_progress: Progress,
) -> Parts:
    """The images in shards on workers, in the order of the images whoever was first.

    Raises:
        UsageError: a shard that is no whole number of blocks. UnavailableError: a cluster that is not there.
    """
    size = choose_shard_size(len(task.dataset), shard_size)
    device: list[Any] = ["any host of a cluster"]
    if cluster is None or cluster.startswith("local:"):
        host = open_target(task.provider).run(Job(kind="probe")).host
        device = [host.cpu, *host.isa]
    parts = [task.dataset.samples[start : start + size] for start in range(0, len(task.dataset), size)]
    board = find_device(task.provider)
    works = [_plan_shard(task, samples, device, board) for samples in parts]
    check = RangeCheck(task.preprocess, is_array=parts[0][0].row is not None)
    with open_executor(workers, cluster) as executor:
        if executor.link:
            on_link(executor.link)
        title = f"evaluate on {task.provider.word}"
        done = submit(works, executor, Store(store), title=title, on_progress=on_progress)
        for samples, answer in zip(parts, done, strict=True):
            shard = read_shard(answer.value)
            check.add_ranges(shard.low, shard.high)
            start = 0
            for seen in shard.seen:
                after = start + len(seen.top[0])
                yield samples[start:after], seen
                start = after
    check.finish(task.dataset.source)


def choose_shard_size(images: int, asked: int | None) -> int:
    """Images a shard: as asked, else a sixteenth of them, from 64 to 512; always whole blocks.

    Raises:
        UsageError: another number than whole blocks.
    """
    if asked is None:
        share = -(-images // (_SHARDS * BLOCK)) * BLOCK
        return min(max(share, _FEWEST), _MOST)
    if asked < 1 or asked % BLOCK:
        raise UsageError(
            expected=f"a shard of a multiple of {BLOCK} images",
            found=str(asked),
            todo=f"say --shard-size {max(1, round(asked / BLOCK)) * BLOCK}",
        )
    return asked


def _plan_shard(task: Task, samples: Sequence[Sample], device: Sequence[Any], board: str) -> Work:
    placed = tuple(msgspec.structs.replace(sample, path=str(Path(sample.path).absolute())) for sample in samples)
    dataset = msgspec.structs.replace(task.dataset, samples=placed)
    decided = {
        "provider": task.provider.word,
        "preprocess": msgspec.to_builtins(task.preprocess),
        "session": task.session,
        "digests": [subject.ref.sha256 for subject in task.subjects],
        "digest": dataset.digest(),
    }
    return Work(
        name=f"images {samples[0].name} to {samples[-1].name}",
        function="mbdeploy.stages.evaluate_job:evaluate_shard",
        request={
            **decided,
            "data": task.dataset.source,
            "samples": msgspec.to_builtins(placed),
            "models": [str(subject.path.absolute()) for subject in task.subjects],
        },
        identity={**decided, "device": list(device), "versions": read_versions()},
        size=len(samples),
        device=board,
    )


def _shift_progress(
    on_progress: Progress, word: str, batch: Batch, before: int, total: int, what: str, done: int, of: int
) -> None:
    on_progress(f"evaluate on {word}", before + len(batch.names) * done // of, total)
