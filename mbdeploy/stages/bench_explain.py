"""Where the time of a file goes, layer by layer, and where the difference between two files comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.calls import Call, describe_call
from mbdeploy.costs.report import InspectReport, Peaks
from mbdeploy.costs.roofline import bound_layers
from mbdeploy.errors import UsageError
from mbdeploy.estimate import Interval, estimate_ratio
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.results import SCHEMA_VERSION, Host, ModelRef
from mbdeploy.stages.bench_images import find_images, load_images
from mbdeploy.stages.bench_runs import check_batch, check_numbers
from mbdeploy.stages.subject import Subject, choose_spinning, entitle, plan_session, read_subjects
from mbdeploy.targets import Job, open_target, parse_provider
from mbdeploy.targets.job import refuse_emulated_times
from mbdeploy.timing.layers import Difference, LayerTime, compare_layers, join_layers, measure_gap

_ADVICE = "check how the file was made (`python -m onnx.checker` on it may say more)"


class Explained(msgspec.Struct, frozen=True, kw_only=True):
    """One file: whole runs by the wall clock, each node of the optimised graph, layers that ran inside others.

    ``between_us`` is what a run spends between its nodes.
    """

    model: ModelRef
    wall_ns: tuple[int, ...]
    layers: tuple[LayerTime, ...]
    absorbed: tuple[str, ...]
    between_us: float


class ExplainResult(msgspec.Struct, frozen=True, kw_only=True):
    """Files that took turns with the profiler on. ``ratio`` and ``differences`` are of the second over the first.

    ``peaks`` is None where no roofline was measured: with several threads, or elsewhere than on this machine.
    ``call`` asks for it again (None: not recorded).
    """

    provider: str
    threads: int
    batch_size: int
    inputs: str
    models: tuple[Explained, ...]
    ratio: Interval | None
    differences: tuple[Difference, ...]
    peaks: Peaks | None
    host: Host
    call: Call | None = None
    schema_version: int = SCHEMA_VERSION


def explain(
    models: Sequence[Path],
    *,
    provider: str = "cpu",
    threads: int = 1,
    batch_size: int = 1,
    warmup: int | None = None,
    min_duration: float = 2.0,
    min_pairs: int = 30,
    inputs: str | Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    roofline: bool = True,
    on_progress: Progress = ignore_progress,
) -> ExplainResult:
    """Profile one file, or two by turns in one process, and join every node with the costs that ``inspect`` counts.

    The ``roofline`` is this machine's, one thread, measured now. Writing the profile slows a run, most of all small
    nodes.

    Raises:
        UsageError: more than two files, a runtime that does not say how long a node takes, or a batch other than
        that of the counts. Others as ``bench``.
    """
    call = describe_call("bench", locals(), explain=True)
    if len(models) > 2:
        raise UsageError(
            where="--explain", expected="one file or two", found=str(len(models)), todo="compare two at a time"
        )
    found = parse_provider(provider)
    if found.runtime != "onnxruntime":
        raise UsageError(
            where=provider,
            expected="a provider of ONNX Runtime, which says how long each node takes",
            found=found.runtime,
            todo="leave out --explain",
        )
    check_numbers(threads=(threads, 1), batch_size=(batch_size, 1), min_pairs=(min_pairs, 1))
    target, subjects = open_target(found), read_subjects(models)
    refuse_emulated_times(target, "profile")
    for subject in subjects:
        check_batch(subject, batch_size)
    on_progress("counting", 0, 0)
    reports = [_count(subject, batch_size) for subject in subjects]
    source = find_images(models[0], inputs)
    job = Job(
        kind="profile",
        sessions=tuple(
            plan_session(
                subject,
                found,
                threads=threads,
                provider_options=provider_options,
                session_config={**choose_spinning(found, threads), **(session_config or {})},
            )
            for subject in subjects
        ),
        inputs=load_images(source, subjects, preprocess, seed),
        batch_size=batch_size,
        warmup=warmup,
        min_duration_s=min_duration,
        min_rounds=min_pairs,
        max_rounds=1000,
    )
    answer = target.run(job, entitle(on_progress, f"profile on {found.word}"))
    peaks = None
    if roofline and threads == 1 and target.name == "local" and found.name == "cpu":
        on_progress("measuring this machine's peaks", 0, 0)
        outcome = run_step("mbdeploy.stages.inspect_peaks:measure_peaks", {})
        measured = demand_value(outcome, where="peaks", expected="peaks that can be measured", todo="run it again")
        peaks = msgspec.convert({**measured, "host": msgspec.to_builtins(answer.host)}, Peaks)
    explained = []
    for subject, report, ran in zip(subjects, reports, answer.sessions, strict=True):
        layers = join_layers(ran.profile, report, bound_layers(report, peaks) if peaks else None)
        known = {row.layer for row in layers}
        absorbed = tuple(layer.name for layer in report.layers if layer.name not in known)
        explained.append(
            Explained(
                model=subject.ref,
                wall_ns=ran.wall_ns,
                layers=layers,
                absorbed=absorbed,
                between_us=measure_gap(ran.wall_ns, layers),
            )
        )
    both = len(explained) == 2
    return ExplainResult(
        provider=provider,
        threads=threads,
        batch_size=batch_size,
        inputs=source,
        models=tuple(explained),
        ratio=estimate_ratio(explained[0].wall_ns, explained[1].wall_ns, seed=seed) if both else None,
        differences=compare_layers(explained[0].layers, explained[1].layers) if both else (),
        peaks=peaks,
        host=answer.host,
        call=call,
    )


def _count(subject: Subject, batch_size: int) -> InspectReport:
    """The costs by layer, of the batch that is run."""
    request: dict[str, Any] = {"model": str(subject.path), "input_shape": None, "as_standard_conv": False, "ignore": []}
    outcome = run_step("mbdeploy.stages.inspect_job:inspect_file", request)
    found = demand_value(outcome, where=subject.path, expected="a model that can be looked at", todo=_ADVICE)
    report = msgspec.convert(found["report"], InspectReport)
    if report.batch != batch_size:
        raise UsageError(
            where="--batch-size",
            expected=f"{report.batch}, for which the layers' work is counted",
            found=str(batch_size),
            todo="leave it out; an export with a fixed batch is counted for that batch",
        )
    return report
