"""The evaluate stage: labelled images through classifiers, shard by shard; every prediction is kept."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.assets import cache_root
from mbdeploy.calls import describe_call
from mbdeploy.data import Dataset, Sample, open_dataset
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.model_file import digest_model
from mbdeploy.quant.metrics import Sums, finish_sums, merge_sums
from mbdeploy.results import EvalReport, Evaluated, Host, Metrics, Prediction
from mbdeploy.stages.classes import settle_background
from mbdeploy.stages.evaluate_job import BATCH, Seen
from mbdeploy.stages.evaluate_parts import Task, see_here, see_shared
from mbdeploy.stages.placement import check_rules, judge_placement, parse_rules
from mbdeploy.stages.subject import Subject, choose_preprocess, list_tools, read_subjects
from mbdeploy.targets import open_target, parse_provider

#: Images a batch of one process; a batch costs one start of the agent.
SHARD = BATCH


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
    require_placement: Sequence[str] = (),
    workers: int | None = None,
    cluster: str | None = None,
    shard_size: int | None = None,
    store: Path | None = None,
    on_link: Callable[[str], None] = lambda link: None,
    on_progress: Progress = ignore_progress,
) -> EvalReport:
    """Classify the labelled images of ``data`` with every model; ``against`` comes first and is compared with.

    Rules: 1. memory and disk do not grow with the number of images. 2. ``background`` says that class 0
    is none of the labels; without it the model's own labels say, and else a model of 1001 classes has a
    background if every label is below 1000. 3. ``limit`` images are chosen by ``seed``. 4. Only the first
    output counts, (n, classes) or (n, classes, 1, 1). 5. :mod:`mbdeploy.derive` makes accuracies and their
    differences of the report. 6. With ``allow_fallback`` a provider that is not here runs on the CPU instead, and
    the report says so. ``require_placement`` are rules over where nodes ran, as ``verify`` has them. 7. ``workers``
    processes here, or those of a ``cluster`` (``local:N``, ``tcp://host:port``), share the images in shards of
    ``shard_size``; the report is the same to the last bit, whatever the shards. Finished shards are kept in ``store``
    (by default in the user's cache), so that a run that was stopped goes on.
    ``on_link`` is told where a cluster can be watched.

    Raises:
        UnavailableError: a provider, or a cluster, that is not here. StepError: a model that crashes the runtime, or
        answers NaN. ModelError: no classifier. DataError: labels that are no classes of the model.
    """
    call = describe_call("evaluate", locals())
    paths = [path for path in models if against is None or os.path.realpath(path) != os.path.realpath(against)]
    subjects = read_subjects([*([against] if against is not None else []), *paths])
    rules = parse_rules(require_placement)
    check_rules(rules, [provider], [subject.kind for subject in subjects])
    where = parse_provider(provider)
    target = open_target(where)
    dataset = open_dataset(data, labelled=True, limit=limit, seed=seed)
    task = Task(
        subjects=subjects,
        dataset=dataset,
        preprocess=choose_preprocess(dataset, subjects, preprocess),
        provider=where,
        session={
            "threads": threads,
            "provider_options": dict(provider_options or {}),
            "session_config": dict(session_config or {}),
            "allow_fallback": allow_fallback,
        },
    )
    if workers is None and cluster is None:
        parts = see_here(task, target, SHARD, on_progress)
    else:
        parts = see_shared(
            task,
            workers=workers,
            cluster=cluster,
            shard_size=shard_size,
            store=store or cache_root() / "results",
            on_link=on_link,
            on_progress=on_progress,
        )
    tally = _Tally(subjects, dataset, background)
    with contextlib.closing(parts):
        for samples, seen in parts:
            tally.add(samples, seen)
    found = zip(subjects, tally.last.placements, tally.last.providers, strict=True)
    return EvalReport(
        data=data,
        data_digest=dataset.digest(),
        classes=tally.classes,
        background=tally.background,
        models=tuple(
            Evaluated(
                model=subject.ref,
                provider=tally.last.providers[index],
                predictions=tuple(tally.predictions[index]),
                placement=tally.last.placements[index],
            )
            for index, subject in enumerate(subjects)
        ),
        metrics=tally.list_metrics(),
        host=tally.hosts[0],
        other_hosts=tuple(tally.hosts[1:]),
        checks=tuple(
            gate
            for subject, placement, label in found
            for gate in judge_placement(rules, placement, subject.ref.name, label, subject.kind)
        ),
        call=call,
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
    require_placement: Sequence[str] = (),
) -> Provenance:
    """What ``evaluate`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": digest_model(path) for index, path in enumerate(models)}
    if against is not None:
        parents["against"] = digest_model(against)
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
            "require_placement": list(require_placement),
        },
        parents=parents,
        tools=artifact.read_tools(*list_tools([provider]), "pillow"),
    )


class _Tally:
    """What is known after some parts: predictions of every model, sums of every later one against the first."""

    def __init__(self, subjects: Sequence[Subject], dataset: Dataset, background: bool | None) -> None:
        self.classes = 0
        self.background = False
        self.predictions: list[list[Prediction]] = [[] for _ in subjects]
        self.hosts: list[Host] = []
        self.last: Seen
        self._sums: list[Sums] = []
        self._subjects = subjects
        self._dataset = dataset
        self._asked = background

    def add(self, samples: Sequence[Sample], seen: Seen) -> None:
        """Take in what the next images gave; blocks are merged one by one, in the order of the images."""
        if not self.classes:
            self._settle_classes(seen.classes)
        for kept, tops in zip(self.predictions, seen.top, strict=True):
            for sample, top in zip(samples, tops, strict=True):
                kept.append(Prediction(name=sample.name, label=sample.label, top=top))
        for block in seen.sums:
            pairs = zip(self._sums, block, strict=True)
            self._sums = [merge_sums(*pair) for pair in pairs] if self._sums else list(block)
        self.last = seen
        if seen.host not in self.hosts:
            self.hosts.append(seen.host)

    def list_metrics(self) -> tuple[Metrics, ...]:
        """Each later model's logits against the first one's."""
        scales = [subject.output_scales[0] for subject in self._subjects[1:]]
        return tuple(finish_sums(sums, scale) for sums, scale in zip(self._sums, scales, strict=True))

    def _settle_classes(self, classes: Sequence[int]) -> None:
        counts = {subject.ref.name: count for subject, count in zip(self._subjects, classes, strict=True)}
        if len(set(counts.values())) != 1:
            raise UsageError(
                expected="models of the same classes",
                found=", ".join(f"{name}: {count}" for name, count in counts.items()),
                todo="evaluate them one by one",
            )
        self.classes = classes[0]
        highest = max(sample.label for sample in self._dataset.samples if sample.label is not None)
        self.background = settle_background(self._subjects, self.classes, highest, self._dataset.source, self._asked)
