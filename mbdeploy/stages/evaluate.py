"""The evaluate stage: labelled images through classifiers, shard by shard; every prediction is kept."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.data import Batch, Dataset, load_batches, open_dataset
from mbdeploy.errors import ModelError, StepError, UsageError
from mbdeploy.isolate import Progress, Verdict, ignore_progress
from mbdeploy.quant.metrics import Sums, finish_sums, merge_sums, sum_outputs
from mbdeploy.results import EvalReport, Evaluated, Metrics, Prediction
from mbdeploy.stages.classes import settle_background
from mbdeploy.stages.subject import (
    Subject,
    check_inputs,
    choose_preprocess,
    list_tools,
    name_provider,
    plan_session,
    read_subjects,
)
from mbdeploy.targets import Job, Ran, open_target, parse_provider

#: Images a shard: what is in memory and on disk at a time. A shard costs one start of the agent.
SHARD = 128
_KEPT_CLASSES = 5


def evaluate(
    models: Sequence[Path],
    *,
    against: Path | None = None,
    data: str,
    provider: str = "cpu",
    preprocess: str | None = None,
    background: bool | None = None,
    limit: int | None = None,
    seed: int = 0,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    on_progress: Progress = ignore_progress,
) -> EvalReport:
    """Classify the labelled images of ``data`` with every model; ``against`` comes first and is compared with.

    Rules: 1. memory and disk do not grow with the number of images. 2. ``background`` says that class 0
    is none of the labels; without it the model's own labels say, and else a model of 1001 classes has a
    background if every label is below 1000. 3. ``limit`` images are chosen by ``seed``. 4. Only the first
    output counts, (n, classes) or (n, classes, 1, 1). 5. :mod:`mbdeploy.derive` makes accuracies and their
    differences of the report. 6. With ``allow_fallback`` a provider that is not here runs on the CPU instead, and
    the report says so.

    Raises:
        UnavailableError: a provider that is not here. StepError: a model that crashes the runtime, or
        answers NaN. ModelError: no classifier. DataError: labels that are no classes of the model.
    """
    paths = [path for path in models if against is None or path.resolve() != against.resolve()]
    subjects = read_subjects([*([against] if against is not None else []), *paths])
    where = parse_provider(provider)
    target = open_target(where)
    dataset = open_dataset(data, labelled=True, limit=limit, seed=seed)
    sessions = tuple(
        plan_session(
            subject,
            where,
            threads=threads,
            provider_options=provider_options,
            session_config=session_config,
            allow_fallback=allow_fallback,
        )
        for subject in subjects
    )
    tally = _Tally(subjects, dataset, background)
    for batch in _iter_shards(dataset, subjects, preprocess):
        shift = functools.partial(_shift_progress, on_progress, where.word, batch, tally.images, len(dataset))
        answer = target.run(Job(kind="infer", sessions=sessions, inputs=batch.inputs), shift)
        tally.add(batch, answer.sessions)
    return EvalReport(
        data=data,
        data_digest=dataset.digest(),
        classes=tally.classes,
        background=tally.background,
        models=tuple(
            Evaluated(
                model=subject.ref,
                provider=name_provider(where, answer.sessions[index]),
                predictions=tuple(tally.predictions[index]),
                placement=answer.sessions[index].placement,
            )
            for index, subject in enumerate(subjects)
        ),
        metrics=tally.list_metrics(),
        host=answer.host,
    )


def plan(
    models: Sequence[Path],
    *,
    against: Path | None = None,
    data: str,
    provider: str = "cpu",
    preprocess: str | None = None,
    background: bool | None = None,
    limit: int | None = None,
    seed: int = 0,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
) -> Provenance:
    """What ``evaluate`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": artifact.digest_file(path) for index, path in enumerate(models)}
    if against is not None:
        parents["against"] = artifact.digest_file(against)
    parents["data"] = open_dataset(data, labelled=True, limit=limit, seed=seed).digest()
    return Provenance(
        stage="evaluate",
        params={
            "provider": provider,
            "preprocess": preprocess,
            "background": background,
            "threads": threads,
            "provider_options": dict(provider_options or {}),
            "session_config": dict(session_config or {}),
            "allow_fallback": allow_fallback,
        },
        parents=parents,
        tools=artifact.read_tools(*list_tools([provider]), "pillow"),
    )


class _Tally:
    """What is known after some shards: predictions of every model, sums of every later one against the first."""

    def __init__(self, subjects: Sequence[Subject], dataset: Dataset, background: bool | None) -> None:
        self.images = 0
        self.classes = 0
        self.background = False
        self.predictions: list[list[Prediction]] = [[] for _ in subjects]
        self._sums: list[Sums] = []
        self._subjects = subjects
        self._dataset = dataset
        self._asked = background

    def add(self, batch: Batch, sessions: Sequence[Ran]) -> None:
        """Take in one shard's outputs."""
        logits = [_read_logits(subject, ran) for subject, ran in zip(self._subjects, sessions, strict=True)]
        if self.images == 0:
            self._settle_classes(logits)
        for kept, values in zip(self.predictions, logits, strict=True):
            top = np.argsort(-values, axis=1, kind="stable")[:, :_KEPT_CLASSES]
            for name, label, row in zip(batch.names, _list_labels(batch), top.tolist(), strict=True):
                kept.append(Prediction(name=name, label=label, top=tuple(row)))
        sums = [sum_outputs(logits[0], values) for values in logits[1:]]
        self._sums = [merge_sums(*pair) for pair in zip(self._sums, sums, strict=True)] if self.images else sums
        self.images += len(batch.names)

    def list_metrics(self) -> tuple[Metrics, ...]:
        """Each later model's logits against the first one's."""
        scales = [subject.output_scales[0] for subject in self._subjects[1:]]
        return tuple(finish_sums(sums, scale) for sums, scale in zip(self._sums, scales, strict=True))

    def _settle_classes(self, logits: Sequence[NDArray[Any]]) -> None:
        counts = {subject.ref.name: values.shape[1] for subject, values in zip(self._subjects, logits, strict=True)}
        if len(set(counts.values())) != 1:
            raise UsageError(
                expected="models of the same classes",
                found=", ".join(f"{name}: {count}" for name, count in counts.items()),
                todo="evaluate them one by one",
            )
        self.classes = next(iter(counts.values()))
        highest = max(sample.label for sample in self._dataset.samples if sample.label is not None)
        self.background = settle_background(self._subjects, self.classes, highest, self._dataset.source, self._asked)


def _iter_shards(dataset: Dataset, subjects: Sequence[Subject], word: str | None) -> Iterator[Batch]:
    for batch in load_batches(dataset, choose_preprocess(dataset, subjects, word), batch_size=SHARD):
        check_inputs(subjects, batch.inputs.shape, dataset.source)
        yield batch


def _read_logits(subject: Subject, ran: Ran) -> NDArray[Any]:
    """The first output as (n, classes)."""
    values = ran.outputs[0]
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


def _list_labels(batch: Batch) -> list[int]:
    return [] if batch.labels is None else [int(label) for label in batch.labels]


def _shift_progress(
    on_progress: Progress, word: str, batch: Batch, before: int, total: int, what: str, done: int, of: int
) -> None:
    on_progress(f"evaluate on {word}", before + len(batch.names) * done // of, total)
