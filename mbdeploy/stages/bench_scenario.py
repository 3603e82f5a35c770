"""MLPerf's scenarios over one model: single stream, multi stream, server and offline, as LoadGen defines them."""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mbdeploy.artifact import read_tools
from mbdeploy.errors import UnavailableError, UsageError, refuse_output
from mbdeploy.estimate import required_samples
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.results import SCHEMA_VERSION, Check, Host, ModelRef, Placement
from mbdeploy.stages.bench_images import find_images, load_images
from mbdeploy.stages.bench_runs import check_batch, check_numbers
from mbdeploy.stages.subject import plan_session, read_subjects
from mbdeploy.stages.tables import Table
from mbdeploy.targets import Job, open_target, parse_provider
from mbdeploy.timing.loadgen import PRESETS, SCENARIOS, read_log, read_percentiles, read_rate
from mbdeploy.watch import Limits

_PACKAGE = "mlcommons-loadgen"
#: A run lasts as long as its queries take; LoadGen's own end comes long before.
_LIMITS = Limits(wall_s=3600.0)


class ScenarioRun(msgspec.Struct, frozen=True, kw_only=True):
    """One model in one scenario. ``results`` are LoadGen's, by its keys; ``asked`` is what the preset asks, what was
    expected of the model and, for a server, the bound of its 99th percentile. ``logs`` is empty if they were not kept.
    """

    model: ModelRef
    provider: str
    scenario: str
    preset: str
    threads: int
    batch_size: int
    seed: int
    inputs: str
    asked: dict[str, float]
    results: dict[str, Any]
    placement: Placement
    session: dict[str, Any]
    host: Host
    tools: dict[str, str]
    logs: str
    schema_version: int = SCHEMA_VERSION


def run_scenario(
    models: Sequence[Path],
    *,
    scenario: str,
    preset: str = "quick",
    provider: str = "cpu",
    threads: int = 1,
    batch_size: int = 1,
    target_qps: float | None = None,
    target_latency: float | None = None,
    inputs: str | Path | None = None,
    preprocess: str | None = None,
    seed: int = 0,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    logs: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> list[ScenarioRun]:
    """Run each model in a scenario of MLPerf Inference, in a process of its own; LoadGen's logs go to ``logs``.

    ``batch_size`` is how many samples of a query, or of what a server has waiting, are run at once. ``target_qps``
    (queries a second) and ``target_latency`` (ms, of the 99th percentile) are a server's; by default half of what the
    model can do alone, and four times its latency.

    Raises:
        UnavailableError: no LoadGen here. UsageError: an unknown scenario or preset, or a provider elsewhere. Others
        as ``bench``.
    """
    for word, known in ((scenario, SCENARIOS), (preset, PRESETS)):
        if word not in known:
            raise UsageError(where=word, expected=", ".join(known), found="another word", todo="choose one of these")
    check_numbers(threads=(threads, 1), batch_size=(batch_size, 1), target_qps=(target_qps or 0, 0))
    if importlib.util.find_spec("mlperf_loadgen") is None:
        raise UnavailableError(
            where="--scenario",
            expected="MLPerf's LoadGen",
            found=f"no package {_PACKAGE}",
            todo=f"run `pip install {_PACKAGE}`",
        )
    found = parse_provider(provider)
    if found.target != "local":
        raise UsageError(
            where=provider,
            expected="a provider on this machine",
            found=f"the target {found.target}",
            todo="run mbdeploy there, or leave out --scenario",
        )
    subjects, target = read_subjects(models), open_target(found)
    for subject in subjects:
        check_batch(subject, batch_size)
    source = find_images(models[0], inputs)
    images = load_images(source, subjects, preprocess, seed)
    runs = []
    with tempfile.TemporaryDirectory(prefix="mbdeploy-loadgen-") as name:
        np.save(Path(name) / "images.npy", images, allow_pickle=False)
        for subject in subjects:
            session = plan_session(
                subject,
                found,
                threads=threads,
                provider_options=provider_options,
                session_config=session_config,
            )
            # This one refuses, and says why, in the way that all commands do.
            answer = target.run(
                Job(kind="infer", sessions=(session,), inputs=images[:batch_size], batch_size=batch_size)
            )
            with _keeping(logs, subject.ref.name, len(subjects)) as folder:
                request = {
                    "scenario": scenario,
                    "preset": preset,
                    "batch_size": batch_size,
                    "target_qps": target_qps,
                    "target_latency": target_latency,
                    "seed": seed,
                    "images": str(Path(name) / "images.npy"),
                    "logs": str(folder),
                    "session": {**msgspec.to_builtins(session, enc_hook=str), "batch_size": batch_size},
                }
                outcome = run_step(
                    "mbdeploy.timing.loadgen:run_loadgen", request, limits=_LIMITS, on_progress=on_progress
                )
                asked = demand_value(
                    outcome, where=subject.path, expected=f"a run of {scenario}", todo="see that `mbdeploy bench` works"
                )
                results = read_log(folder)
            runs.append(
                ScenarioRun(
                    model=subject.ref,
                    provider=provider,
                    scenario=scenario,
                    preset=preset,
                    threads=threads,
                    batch_size=batch_size,
                    seed=seed,
                    inputs=source,
                    asked=asked,
                    results=results,
                    placement=answer.sessions[0].placement,
                    session=answer.sessions[0].settings,
                    host=answer.host,
                    tools=read_tools(_PACKAGE, "numpy"),
                    logs=str(folder) if logs else "",
                )
            )
    return runs


def judge_scenario(run: ScenarioRun) -> Check:
    """LoadGen's own verdict: a run that it calls invalid proves nothing, so it is inconclusive."""
    valid = run.results.get("result_validity") == "VALID"
    return Check(
        name=f"LoadGen, {run.scenario}",
        subject=f"{run.model.name} on {run.provider}",
        value=float(valid),
        bound=1.0,
        comparison=">=",
        passed=True if valid else None,
        note="" if valid else _name_reason(run.results),
    )


def tabulate_scenario(runs: Sequence[ScenarioRun]) -> list[Table]:
    """Percentiles that the queries carry, LoadGen's early-stopping bound, throughput and verdict."""
    first = runs[0]
    rows = []
    for run in runs:
        n = int(run.results.get("result_query_count", 0))
        percentiles = read_percentiles(run.results)
        cells = (
            f"{percentiles[q] / 1e6:.2f}" if q in percentiles and n >= required_samples(q) else "n/a"
            for q in (50.0, 90.0, 99.0)
        )
        bound = run.results.get("early_stopping_latency_ss") or run.results.get("early_stopping_latency_ms") or 0
        verdict = "valid" if judge_scenario(run).passed else "INVALID"
        row = (
            run.model.name,
            *(cells if run.scenario != "offline" else ("-",) * 3),
            f"{bound / 1e6:.2f}" if bound else "n/a",
            f"{read_rate(run.results):.4g}",
            verdict,
        )
        rows.append(row)
    percentile = {"single-stream": "p90", "multi-stream": "p99"}.get(first.scenario)
    notes = [
        f"Bound: LoadGen's early-stopping estimate of the {percentile}, at 99 % confidence."
        if percentile
        else "LoadGen gives an early-stopping bound for single-stream and multi-stream only.",
        *(f"{run.model.name}: {_name_reason(run.results)}" for run in runs if not judge_scenario(run).passed),
        *(f"LoadGen's logs: {run.logs}" for run in runs if run.logs),
    ]
    if first.scenario == "server":
        asked = first.asked
        notes.append(
            f"Poisson arrivals, {asked['server_target_qps']:.4g} queries a second; valid if their p99 is below "
            f"{asked['server_target_latency_ns'] / 1e6:.2f} ms."
        )
    place = f"{first.provider}, {first.threads} thread{'s' * (first.threads > 1)}, batch {first.batch_size}"
    return [
        Table(
            title=f"MLPerf {first.scenario}, {first.preset}, on {place}",
            columns=("file", "p50 ms", "p90 ms", "p99 ms", "bound ms", "samples/s", "LoadGen"),
            rows=tuple(rows),
            notes=tuple(notes),
        )
    ]


def _name_reason(results: Mapping[str, Any]) -> str:
    return " ".join(
        str(results.get("early_stopping_result", "LoadGen calls this run invalid")).replace("*", "").split()
    )


@contextlib.contextmanager
def _keeping(logs: Path | None, name: str, of: int) -> Iterator[Path]:
    """The folder for LoadGen's logs: the user's, one a model if there are several, else one that goes again."""
    if logs is None:
        with tempfile.TemporaryDirectory(prefix="mbdeploy-loadgen-") as passing:
            yield Path(passing)
        return
    folder = logs / name.replace("/", "-") if of > 1 else logs
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise refuse_output(folder, error) from error
    yield folder
