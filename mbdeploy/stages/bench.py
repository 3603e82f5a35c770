"""The bench stage: models by turns on the same inputs, the first one as baseline and as its own control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.calls import describe_call
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.model_file import digest_model
from mbdeploy.results import BenchRun
from mbdeploy.stages.bench_images import digest_images, find_images, load_images
from mbdeploy.stages.bench_runs import Entry, Plan, check_batch, check_numbers, list_numbers, time_entries
from mbdeploy.stages.placement import check_rules, parse_rules
from mbdeploy.stages.subject import choose_spinning, list_tools, plan_session, read_subjects
from mbdeploy.targets import open_target, parse_provider
from mbdeploy.targets.host import identify_machine
from mbdeploy.targets.job import refuse_emulated_times


def bench(
    models: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: int | Sequence[int] = 1,
    batch_size: int | Sequence[int] = 1,
    warmup: int | None = None,
    min_duration: float = 2.0,
    max_duration: float = 60.0,
    min_pairs: int = 30,
    processes: int = 5,
    cool_down: float = 0.5,
    inputs: str | Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
    on_progress: Progress = ignore_progress,
) -> list[BenchRun]:
    """Time ``models`` against the first of them, one run a provider, batch size and number of threads; raw samples.

    Rules: 1. every model, and the first one again as A/A control, takes its turn in every round. ``warmup``
    rounds before do not count (None: until times are steady). 2. Rounds are spread evenly over ``processes`` fresh
    processes, with ``cool_down`` seconds of rest between them, until each model has run ``min_pairs`` times and
    for ``min_duration`` seconds; then further processes follow until every ratio's interval is narrower than
    ``tolerance``, or until ``max_duration`` seconds have passed. With one process there is one, of these minimums,
    and the interval knows nothing of how processes differ. 3. Images come from ``inputs`` (golden.npz, or any
    data), else from golden.npz beside the first model, else from the photographs that ship with mbdeploy, and are
    rotated. 4. With several threads, a session's idle threads stop spinning when its run ends, so that
    they do not slow the next session's; ``session_config`` can say otherwise. 5. Peak memory is that of
    a fresh process for each model. 6. ``tolerance``, ``seed`` and ``require_placement`` (see
    :mod:`mbdeploy.stages.placement`) are saved for the verdicts that :mod:`mbdeploy.derive` gives. 7. On a device
    inputs are copied there before an inference is timed and outputs after it; the copies are timed apart. 8. With
    ``allow_fallback`` a provider that is not here runs on the CPU instead, and its rows say so.

    Raises:
        UnavailableError: a provider that is not here. UsageError: an emulated target, on which times do
        not exist, or a model with another fixed batch. StepError: a model that crashes the runtime.
    """
    call = describe_call("bench", locals())
    subjects = read_subjects(models)
    check_rules(parse_rules(require_placement), providers, [subject.kind for subject in subjects])
    opened = [(provider, open_target(provider)) for provider in map(parse_provider, dict.fromkeys(providers))]
    counts, sizes = list_numbers(threads), list_numbers(batch_size)
    check_numbers(
        threads=(min(counts, default=0), 1),
        batch_size=(min(sizes, default=0), 1),
        min_duration=(min_duration, 0),
        max_duration=(max_duration, 0),
        min_pairs=(min_pairs, 1),
        processes=(processes, 1),
        cool_down=(cool_down, 0),
        warmup=(warmup or 0, 0),
    )
    for _, target in opened:
        refuse_emulated_times(target, "bench")
    for subject, size in product(subjects, sizes):
        check_batch(subject, size)
    source = find_images(models[0], inputs)
    images = load_images(source, subjects, preprocess, seed)
    runs = []
    for (provider, target), size, count in product(opened, sizes, counts):
        entries = [
            Entry(
                ref=subject.ref,
                kind=subject.kind,
                session=plan_session(
                    subject,
                    provider,
                    threads=count,
                    provider_options=provider_options,
                    session_config={**choose_spinning(provider, count), **(session_config or {})},
                    allow_fallback=allow_fallback,
                ),
            )
            for subject in subjects
        ]
        numbers = Plan(
            threads=count,
            batch_size=size,
            warmup=warmup,
            min_duration_s=min_duration,
            max_duration_s=max_duration,
            min_pairs=min_pairs,
            processes=processes,
            cool_down_s=cool_down,
            inputs=source,
            tolerance=tolerance,
            seed=seed,
            require_placement=tuple(require_placement),
        )
        run = time_entries(target, provider, entries, images, numbers, on_progress)
        runs.append(msgspec.structs.replace(run, call=call))
    return runs


def plan(
    models: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: int | Sequence[int] = 1,
    batch_size: int | Sequence[int] = 1,
    warmup: int | None = None,
    min_duration: float = 2.0,
    max_duration: float = 60.0,
    min_pairs: int = 30,
    processes: int = 5,
    cool_down: float = 0.5,
    inputs: str | Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
) -> Provenance:
    """What ``bench`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": digest_model(path) for index, path in enumerate(models)}
    parents["inputs"] = digest_images(find_images(models[0], inputs), seed)
    return Provenance(
        stage="bench",
        params={
            "host": identify_machine(),
            "providers": list(providers),
            "threads": list_numbers(threads),
            "batch_size": list_numbers(batch_size),
            "warmup": warmup,
            "min_duration": min_duration,
            "max_duration": max_duration,
            "min_pairs": min_pairs,
            "processes": processes,
            "cool_down": cool_down,
            "preprocess": preprocess,
            "seed": seed,
            "tolerance": tolerance,
            "provider_options": dict(provider_options or {}),
            "session_config": dict(session_config or {}),
            "allow_fallback": allow_fallback,
            "require_placement": list(require_placement),
        },
        parents=parents,
        tools=artifact.read_tools(*list_tools(providers)),
    )
