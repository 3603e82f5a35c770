"""Which session options make a model fastest here, with the same answers: timed by turns, then written as code."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.derive import compare_series, judge_run
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import SCHEMA_VERSION, BenchRun, ModelRef
from mbdeploy.stages import figures
from mbdeploy.stages.bench_images import find_images, load_images
from mbdeploy.stages.bench_runs import Entry, Plan, check_batch, check_numbers, time_entries
from mbdeploy.stages.facts import derive_latency
from mbdeploy.stages.subject import choose_spinning, entitle, plan_session, read_subject
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.targets import Job, Session, open_target, parse_provider
from mbdeploy.timing import tuning

#: Outputs this close to the defaults' are another order of additions, not other answers.
LOWEST_DB = 60.0
_FEW = 16


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a set of options answers as the defaults do: ``sqnr_db`` of its outputs against theirs, inf if equal."""

    name: str
    sqnr_db: float
    correct: bool


class TuneResult(msgspec.Struct, frozen=True, kw_only=True):
    """One model on one provider. Series 0 of every run are the defaults, the others sets of options by their names.

    The first run finds candidates, the second, if there is one, says whether they are ``chosen`` or the defaults are.
    """

    model: ModelRef
    provider: str
    answers: tuple[Answers, ...]
    runs: tuple[BenchRun, ...]
    chosen: str
    code: str
    schema_version: int = SCHEMA_VERSION


def tune(
    model: Path,
    *,
    provider: str = "cpu",
    threads: int = 1,
    batch_size: int = 1,
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
    on_progress: Progress = ignore_progress,
) -> TuneResult:
    """Time every option of :data:`mbdeploy.timing.tuning.OPTIONS` against the defaults, then the best together.

    Rules: 1. outputs are compared with the defaults' first; a set counts as correct if they are equal, or at least
    ``LOWEST_DB`` alike with the same best classes. 2. An option is faster if its interval lies below 1 and the A/A
    control passes. The fastest correct one of each group are timed together in a run of their own, which decides:
    the best of many is partly luck. 3. Other keywords are those of ``bench``.

    Raises:
        UsageError: a provider elsewhere, or of another runtime than ONNX Runtime. Others as ``bench``.
    """
    found = parse_provider(provider)
    if found.target != "local" or found.runtime != "onnxruntime":
        raise UsageError(
            where=provider,
            expected="a provider of ONNX Runtime on this machine",
            found=f"{found.runtime} on {found.target}",
            todo="tune on the machine that will run the model, with ONNX Runtime",
        )
    check_numbers(threads=(threads, 1), batch_size=(batch_size, 1), min_pairs=(min_pairs, 1), processes=(processes, 1))
    target, subject = open_target(found), read_subject(model)
    check_batch(subject, batch_size)
    source = find_images(model, inputs)
    images = load_images(source, [subject], preprocess, seed)
    plain = plan_session(
        subject,
        found,
        threads=threads,
        provider_options=provider_options,
        session_config={**choose_spinning(found, threads), **(session_config or {})},
    )
    numbers = Plan(
        threads=threads,
        batch_size=batch_size,
        warmup=warmup,
        min_duration_s=min_duration,
        max_duration_s=max_duration,
        min_pairs=min_pairs,
        processes=processes,
        cool_down_s=cool_down,
        inputs=source,
        tolerance=tolerance,
        seed=seed,
    )
    options = tuning.list_options(threads)
    with tempfile.TemporaryDirectory(prefix="mbdeploy-tune-") as folder:
        files = _write_files(plain, Path(folder))

        def name(options: Sequence[tuning.Option]) -> Entry:
            session = tuning.apply_options(plain, options, files)
            size = session.model.stat().st_size
            ref = msgspec.structs.replace(subject.ref, name=tuning.name_options(options), size_bytes=size)
            return Entry(ref=ref, session=session, kind=subject.kind)

        rows = [name(()), *(name([option]) for option in options)]
        job = Job(
            kind="infer",
            sessions=tuple(row.session for row in rows),
            inputs=images[: max(_FEW, batch_size)],
            batch_size=batch_size,
        )
        outputs = [ran.outputs for ran in target.run(job, entitle(on_progress, "comparing answers")).sessions]
        answers = [
            _compare(row.ref.name, outputs[0], others) for row, others in zip(rows[1:], outputs[1:], strict=True)
        ]
        runs = [time_entries(target, found, rows, images, numbers, on_progress)]
        chosen = _choose(runs[0], options, answers)
        if chosen:
            runs.append(time_entries(target, found, [name(()), name(chosen)], images, numbers, on_progress))
            chosen = chosen if _is_faster(runs[1], 1) else []
    session = tuning.apply_options(plain, chosen, files)
    return TuneResult(
        model=subject.ref,
        provider=provider,
        answers=tuple(answers),
        runs=tuple(runs),
        chosen=tuning.name_options(chosen),
        code=tuning.write_code(session, chosen, subject.path.name),
    )


def tabulate_tuning(result: TuneResult) -> list[Table]:
    """Every option with its time over the defaults', its answers, load time and memory; then what to use."""
    answers = {found.name: found for found in result.answers}
    tables = []
    for run in result.runs:
        facts = derive_latency(run)
        rows = tuple(
            (
                model.model,
                *figures.list_times(model)[:2],
                _name_answer(answers.get(model.model)),
                f"{model.load_ns / 1e6:.1f}",
                format_bytes(model.peak_bytes),
            )
            for model in facts.models
        )
        tables.append(
            Table(
                title=f"Session options for {result.model.name} on {figures.name_place(facts.models[0])}",
                columns=("options", "ratio", "p50 ms", "answers", "load ms", "peak memory"),
                rows=rows,
                notes=figures.describe_run(facts),
            )
        )
    last = result.runs[-1]
    ratio = compare_series(last, 1)
    why = f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of the defaults' time"
    if result.chosen == tuning.DEFAULTS:
        steady = judge_run(last)[0].passed is True
        why = "no correct set is faster" if steady else "this machine was too unsteady to say: the control did not pass"
    return [*tables, Table(title="Use", columns=("options", "why"), rows=((result.chosen, why),), left=(0, 1))]


def _write_files(session: Session, folder: Path) -> dict[tuning.Format, Path]:
    """The model as this machine's ONNX Runtime optimises it, in both formats."""
    formats: dict[tuning.Format, dict[str, str]] = {"onnx": {}, "ort": {"session.save_model_format": "ORT"}}
    files = {}
    for suffix, config in formats.items():
        files[suffix] = folder / f"model.{suffix}"
        request = {
            "model": str(session.model),
            "output": str(files[suffix]),
            "provider": session.provider,
            "provider_options": session.provider_options,
            "session_config": {**session.session_config, **config},
        }
        demand_value(
            run_step("mbdeploy.timing.tuning:save_optimised", request),
            where=session.model,
            expected=f"a model that ONNX Runtime optimises and writes as .{suffix}",
            todo="see that it loads with `mbdeploy bench`",
        )
    return files


def _compare(name: str, expected: Sequence[Any], outputs: Sequence[Any]) -> Answers:
    metrics = [compare_outputs(first, second) for first, second in zip(expected, outputs, strict=True)]
    alike = all(
        found.degenerate is None and found.sqnr_db >= LOWEST_DB and found.top1_agreement in (None, 1.0)
        for found in metrics
    )
    return Answers(name=name, sqnr_db=min(found.sqnr_db for found in metrics), correct=alike)


def _choose(run: BenchRun, options: Sequence[tuning.Option], answers: Sequence[Answers]) -> list[tuning.Option]:
    """The fastest of each group that is correct and faster than the defaults, the fastest first."""
    faster = [
        (compare_series(run, index).value, option)
        for index, (option, found) in enumerate(zip(options, answers, strict=True), start=1)
        if found.correct and _is_faster(run, index)
    ]
    return tuning.combine_options(faster)


def _is_faster(run: BenchRun, index: int) -> bool:
    return judge_run(run)[0].passed is True and compare_series(run, index).high < 1


def _name_answer(found: Answers | None) -> str:
    if found is None:
        return ""
    if found.sqnr_db == float("inf"):
        return "identical"
    return f"{'alike' if found.correct else 'OTHER'}, {found.sqnr_db:.0f} dB"
