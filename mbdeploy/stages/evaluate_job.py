"""One part of an evaluation: what every model answers to some images, here or on a worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.card import Preprocess
from mbdeploy.data import Dataset, Sample, load_batches
from mbdeploy.data.arrays import RangeCheck
from mbdeploy.errors import DataError, ModelError, StepError
from mbdeploy.isolate import Progress, Verdict
from mbdeploy.quant.metrics import Sums, sum_outputs
from mbdeploy.results import Host, Placement
from mbdeploy.stages.subject import Subject, check_inputs, name_provider, plan_session, read_subjects
from mbdeploy.targets import Answer, Job, Provider, open_target, parse_provider

#: Images whose errors are summed together. Sums of floats depend on how they are grouped: parts of an evaluation
#: are whole blocks, so that the grouping, and with it the last bit, is the same however the images are divided.
BLOCK = 32
#: Images a job of the agent: what is in memory and on disk at a time.
BATCH = 128
_KEPT_CLASSES = 5


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What some images gave: for each model the classes ranked highest, and for each block the sums of every later
    model against the first one. ``classes`` and ``providers`` are one a model."""

    classes: tuple[int, ...]
    top: tuple[tuple[tuple[int, ...], ...], ...]
    sums: tuple[tuple[Sums, ...], ...]
    placements: tuple[Placement, ...]
    providers: tuple[str, ...]
    host: Host


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """Several ``Seen`` of one worker, in the order of the images, and the range of the inputs (channel by channel)."""

    seen: tuple[Seen, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def see_answers(subjects: Sequence[Subject], provider: Provider, answer: Answer) -> Seen:
    """What is kept of the outputs of one job.

    Raises:
        ModelError: no classifier. StepError: NaN or infinity.
    """
    logits = [_read_logits(subject, ran.outputs[0]) for subject, ran in zip(subjects, answer.sessions, strict=True)]
    same = len({values.shape for values in logits}) == 1
    blocks = (slice(start, start + BLOCK) for start in range(0, len(logits[0]), BLOCK) if same)
    return Seen(
        classes=tuple(values.shape[1] for values in logits),
        top=tuple(_rank(values) for values in logits),
        sums=tuple(tuple(sum_outputs(logits[0][block], values[block]) for values in logits[1:]) for block in blocks),
        placements=tuple(ran.placement for ran in answer.sessions),
        providers=tuple(name_provider(provider, ran) for ran in answer.sessions),
        host=answer.host,
    )


def evaluate_shard(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """A worker's part: the images of ``request["samples"]`` through every model; the answer is a ``Shard``.

    Raises:
        DataError, ModelError: files that are not those whose digests were given.
    """
    samples = msgspec.convert(request["samples"], tuple[Sample, ...])
    dataset = Dataset(name=request["data"], source=request["data"], samples=samples)
    artifact.check_digest(DataError, request["data"], dataset.digest(), request["digest"])
    subjects = read_subjects([Path(path) for path in request["models"]])
    for subject, wanted in zip(subjects, request["digests"], strict=True):
        artifact.check_digest(ModelError, subject.path, subject.ref.sha256, wanted)
    preprocess = msgspec.convert(request["preprocess"], Preprocess | None)
    provider = parse_provider(request["provider"])
    target = open_target(provider)
    sessions = tuple(plan_session(subject, provider, **request["session"]) for subject in subjects)
    check = RangeCheck(preprocess, is_array=samples[0].row is not None)
    found = []
    for batch in load_batches(dataset, preprocess, batch_size=BATCH, check=check):
        check_inputs(subjects, batch.inputs.shape, dataset.source)
        answer = target.run(Job(kind="infer", sessions=sessions, inputs=batch.inputs), on_progress)
        found.append(see_answers(subjects, provider, answer))
    low, high = check.read_ranges()
    built: dict[str, Any] = msgspec.to_builtins(
        Shard(seen=tuple(found), low=low, high=high), enc_hook=lambda array: array.tolist()
    )
    return built


def read_shard(plain: dict[str, Any]) -> Shard:
    """What ``evaluate_shard`` answered."""
    return msgspec.convert(plain, Shard, strict=False, dec_hook=lambda _, numbers: np.asarray(numbers))


def _rank(logits: NDArray[Any]) -> tuple[tuple[int, ...], ...]:
    top = np.argsort(-logits, axis=1, kind="stable")[:, :_KEPT_CLASSES]
    return tuple(tuple(row) for row in top.tolist())


def _read_logits(subject: Subject, values: NDArray[Any]) -> NDArray[Any]:
    """The first output as (n, classes)."""
    if values.ndim not in (2, 4) or values.shape[1] < 2 or values.shape[2:] not in ((), (1, 1)):
        raise ModelError(
            where=subject.path,
            expected="a classifier, whose first output is (images, classes)",
            found=f"an output of shape {values.shape}",
            todo="compare its outputs with `mbdeploy verify` instead",
        )
    logits: NDArray[Any] = values.reshape(values.shape[:2])
    if not np.isfinite(logits).all():
        raise StepError(
            where=subject.path,
            expected="finite outputs",
            found=f"{Verdict.DEGENERATE.value}: NaN or infinity",
            todo="check its weights, and the range of its inputs",
        )
    return logits
