"""The bench stage: models by turns on the same inputs, the first one as baseline and as its own control."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.data import Dataset, load_arrays, open_dataset
from mbdeploy.errors import UsageError
from mbdeploy.golden import read_golden
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.results import BenchRun, Series
from mbdeploy.stages.placement import check_rules, parse_rules
from mbdeploy.stages.reference import find_golden
from mbdeploy.stages.subject import (
    Subject,
    check_inputs,
    choose_preprocess,
    choose_spinning,
    entitle,
    list_tools,
    name_provider,
    plan_session,
    read_subjects,
)
from mbdeploy.targets import Job, Provider, Ran, Session, Target, open_target, parse_provider
from mbdeploy.targets.job import refuse_emulated_times

#: Where images come from if neither --inputs nor a golden.npz beside the baseline says.
DEFAULT_DATA = "photos"
_MOST_IMAGES = 64


def bench(
    models: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: int = 1,
    batch_size: int = 1,
    warmup: int | None = None,
    min_duration: float = 2.0,
    min_pairs: int = 30,
    inputs: Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
    on_progress: Progress = ignore_progress,
) -> list[BenchRun]:
    """Time ``models`` against the first of them, one run a provider; raw samples, nothing derived.

    Rules: 1. every model, and the first one again as A/A control, takes its turn in every round, until
    each has run ``min_pairs`` times and for ``min_duration`` seconds. ``warmup`` rounds before do not
    count (None: until times are steady). 2. Images come from ``inputs`` (golden.npz, or any data), else
    from golden.npz beside the first model, else from the photographs that ship with mbdeploy, and are
    rotated. 3. With several threads, a session's idle threads stop spinning when its run ends, so that
    they do not slow the next session's; ``session_config`` can say otherwise. 4. Peak memory is that of
    a fresh process for each model. 5. ``tolerance``, ``seed`` and ``require_placement`` (see
    :mod:`mbdeploy.stages.placement`) are saved for the verdicts that :mod:`mbdeploy.derive` gives. 6. On a device
    inputs are copied there before an inference is timed and outputs after it; the copies are timed apart. 7. With
    ``allow_fallback`` a provider that is not here runs on the CPU instead, and its rows say so.

    Raises:
        UnavailableError: a provider that is not here. UsageError: an emulated target, on which times do
        not exist, or a model with another fixed batch. StepError: a model that crashes the runtime.
    """
    subjects = read_subjects(models)
    check_rules(parse_rules(require_placement), providers, [subject.kind for subject in subjects])
    opened = [(provider, open_target(provider)) for provider in map(parse_provider, dict.fromkeys(providers))]
    _check_numbers(batch_size, min_duration, min_pairs, warmup)
    for _, target in opened:
        refuse_emulated_times(target, "bench")
    for subject in subjects:
        if subject.signature.batch not in (None, batch_size):
            raise UsageError(
                where=subject.path,
                expected=f"a batch of {batch_size}",
                found=f"a model fixed to {subject.signature.batch}",
                todo=f"give --batch-size {subject.signature.batch}, or export it with a dynamic batch",
            )
    source = _find_images(models[0], inputs)
    images = _load_images(source, subjects, preprocess, seed)
    runs = []
    for provider, target in opened:
        sessions = [
            plan_session(
                subject,
                provider,
                threads=threads,
                provider_options=provider_options,
                session_config={**choose_spinning(provider, threads), **(session_config or {})},
                allow_fallback=allow_fallback,
            )
            for subject in subjects
        ]
        job = Job(
            kind="bench",
            sessions=(*sessions, sessions[0]),
            inputs=images,
            batch_size=batch_size,
            warmup=warmup,
            min_duration_s=min_duration,
            min_rounds=min_pairs,
        )
        answer = target.run(job, entitle(on_progress, f"bench on {provider.word}"))
        peaks = _measure_memory(target, sessions, images[:batch_size], batch_size, provider, on_progress)
        series = [
            _make_series(subject, provider, ran, peak)
            for subject, ran, peak in zip((*subjects, subjects[0]), answer.sessions, (*peaks, peaks[0]), strict=True)
        ]
        runs.append(
            BenchRun(
                provider=name_provider(provider, *answer.sessions),
                threads=threads,
                batch_size=batch_size,
                warmup=warmup,
                min_duration_s=min_duration,
                inputs=source,
                tolerance=tolerance,
                seed=seed,
                series=tuple(series[:-1]),
                control=series[-1],
                host=answer.host,
                require_placement=tuple(require_placement),
            )
        )
    return runs


def plan(
    models: Sequence[Path],
    *,
    providers: Sequence[str] = ("cpu",),
    threads: int = 1,
    batch_size: int = 1,
    warmup: int | None = None,
    min_duration: float = 2.0,
    min_pairs: int = 30,
    inputs: Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
) -> Provenance:
    """What ``bench`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": artifact.digest_file(path) for index, path in enumerate(models)}
    source = _find_images(models[0], inputs)
    parents["inputs"] = artifact.digest_file(Path(source)) if _is_golden(source) else _open(source, seed).digest()
    return Provenance(
        stage="bench",
        params={
            "providers": list(providers),
            "threads": threads,
            "batch_size": batch_size,
            "warmup": warmup,
            "min_duration": min_duration,
            "min_pairs": min_pairs,
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


def _check_numbers(batch_size: int, min_duration: float, min_pairs: int, warmup: int | None) -> None:
    limits = (
        ("batch_size", batch_size, 1),
        ("min_duration", min_duration, 0),
        ("min_pairs", min_pairs, 1),
        ("warmup", warmup or 0, 0),
    )
    for name, value, lowest in limits:
        if not value >= lowest:
            raise UsageError(where=name, expected=f"{lowest} or more", found=str(value), todo="give such a number")


def _find_images(model: Path, inputs: Path | None) -> str:
    return str(inputs or find_golden(model, None) or DEFAULT_DATA)


def _is_golden(source: str) -> bool:
    """Whether this is a golden.npz, and not an array file of inputs alone."""
    if not zipfile.is_zipfile(source):
        return False
    with zipfile.ZipFile(source) as archive:
        return "output_names.npy" in archive.namelist()


def _open(source: str, seed: int) -> Dataset:
    return open_dataset(source, split="check", limit=_MOST_IMAGES, seed=seed)


def _load_images(source: str, subjects: Sequence[Subject], preprocess: str | None, seed: int) -> NDArray[np.float32]:
    if _is_golden(source):
        images = read_golden(Path(source)).input[:_MOST_IMAGES]
    else:
        dataset = _open(source, seed)
        images = load_arrays(dataset, choose_preprocess(dataset, subjects, preprocess))
    check_inputs(subjects, images.shape, source)
    return images


def _measure_memory(
    target: Target,
    sessions: Sequence[Session],
    images: NDArray[np.float32],
    batch_size: int,
    provider: Provider,
    on_progress: Progress,
) -> list[Ran]:
    """One fresh process a model."""
    peaks = []
    for index, session in enumerate(sessions):
        on_progress(f"memory on {provider.word}", index, len(sessions))
        job = Job(kind="memory", sessions=(session,), inputs=images, batch_size=batch_size)
        peaks.append(target.run(job).sessions[0])
    return peaks


def _make_series(subject: Subject, provider: Provider, ran: Ran, peak: Ran) -> Series:
    return Series(
        model=subject.ref,
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
        kind=subject.kind,
    )
