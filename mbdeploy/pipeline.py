"""From a model card to a proven INT8 file: the only place that knows the order of the stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.card import ModelCard, load_card, name_card
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.provenance.manifest import vouch_for_folder
from mbdeploy.results import BenchRun, Check, ParityReport

STAGES = ("export", "simplify", "quantize", "verify", "bench", "report")
#: The files of an output folder that are verified, and those that are timed, and where what was found is kept.
VERIFIED = ("fp32.onnx", "simplified.onnx", "int8.onnx")
TIMED = VERIFIED[1:]
PARITY, LATENCY = "results/parity.json", "results/bench.json"


class StageRun(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a run: ``fresh`` means that its output was there already and nothing was done."""

    name: str
    output: str
    fresh: bool
    seconds: float


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a run did and what it proved: every gate, from the saved results, fresh or not."""

    card: str
    folder: str
    stages: tuple[StageRun, ...]
    checks: tuple[Check, ...]


class _Step(msgspec.Struct, frozen=True):
    name: str
    outputs: tuple[Path, ...]
    plan: Callable[[], Provenance]
    work: Callable[[], Any]

    def is_fresh(self) -> bool:
        provenance = self.plan()
        return all(artifact.is_fresh(output, provenance) for output in self.outputs)


def run(
    card: str,
    *,
    output: Path,
    force: Sequence[str] = (),
    until: str = STAGES[-1],
    dry_run: bool = False,
    exporter: str = "dynamo",
    opset: int | None = None,
    trust: bool = False,
    calibration: str | None = None,
    recipe: str | None = None,
    without: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    calibration_method: str | None = None,
    num_calibration_samples: int | None = None,
    providers: Sequence[str] = ("cpu",),
    allow_fallback: bool = False,
    threads: int = 1,
    min_duration: float = 2.0,
    seed: int = 0,
    require_placement: Sequence[str] = (),
    on_stage: Callable[[StageRun], None] = lambda stage: None,
    on_progress: Progress = ignore_progress,
) -> RunSummary:
    """Export, simplify, quantize, verify, bench and report, skipping every stage whose output is fresh.

    ``card`` is a card's name or file; what it says of quantization holds where no option is given.
    ``force`` names stages to do again; the ones after them follow only if their inputs changed. ``until`` is the last
    stage to do; gates are read if it is ``verify`` or a later one.
    ``require_placement`` are rules over where nodes ran, which ``verify`` gates on.
    When all is done, ``manifest.json`` vouches for what lies in the folder.
    With ``dry_run`` nothing is written, and ``fresh`` says what would be skipped.

    Raises:
        MbdeployError: the first stage that refuses ends the run; what was finished stays.
    """
    for name in (*force, until):
        if name not in STAGES:
            raise UsageError(
                where=name, expected=f"a stage ({', '.join(STAGES)})", found="no such stage", todo="name one of these"
            )
    from mbdeploy.data import settle_quantization
    from mbdeploy.stages.placement import check_rules, parse_rules

    check_rules(parse_rules(require_placement), providers, ["int8"])
    described = load_card(card)
    given = {
        "calibration": calibration,
        "recipe": recipe,
        "keep_float": tuple(keep_float),
        "calibration_method": calibration_method,
        "num_calibration_samples": num_calibration_samples,
    }
    steps = _list_steps(
        card,
        output,
        export={"exporter": exporter, "opset": opset, "trust": trust},
        quantize={**settle_quantization(described, given), "without": tuple(without), "seed": seed},
        measuring=describe_measuring(
            described,
            output,
            providers=providers,
            threads=threads,
            allow_fallback=allow_fallback,
            min_duration=min_duration,
            seed=seed,
            require_placement=require_placement,
        ),
        on_progress=on_progress,
    )[: STAGES.index(until) + 1]
    is_judged = any(step.name == "verify" for step in steps)
    if dry_run:
        checks, stages = _read_checks(output) if is_judged else (), tuple(_foresee(steps, force))
        return RunSummary(card=described.name, folder=str(output), stages=stages, checks=checks)
    done = []
    with artifact.lock_folder(output):
        for step in steps:
            stage = _do_step(step, forced=step.name in force)
            on_stage(stage)
            done.append(stage)
        vouch_for_folder(output)
    checks = _read_checks(output) if is_judged else ()
    return RunSummary(card=described.name, folder=str(output), stages=tuple(done), checks=checks)


def describe_measuring(
    card: ModelCard,
    folder: Path,
    *,
    providers: Sequence[str],
    threads: int,
    allow_fallback: bool,
    min_duration: float,
    seed: int,
    require_placement: Sequence[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The keywords with which ``run`` verifies VERIFIED and times TIMED of ``folder``."""
    golden = folder / "golden.npz"
    where = {"providers": tuple(providers), "threads": threads, "allow_fallback": allow_fallback}
    # One process is quick: `bench` itself spreads over more.
    times = {"min_duration": min_duration, "seed": seed, "processes": 1}
    verifying = {"golden": golden, "budgets": name_card(card), "layers": True, "one_by_one": False, **where}
    verifying["require_placement"] = tuple(require_placement)
    return verifying, {"inputs": golden, **where, **times}


def keep_measured(
    folder: Path, parity: ParityReport, runs: Sequence[BenchRun], measuring: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    """Leave what others measured of the files of ``folder`` as ``run`` would, so that it is fresh for it."""
    from mbdeploy.stages import bench, verify

    verified, timed = ([folder / name for name in names] for names in (VERIFIED, TIMED))
    artifact.write_result(folder / PARITY, verify.plan(verified, **measuring[0]), parity)
    artifact.write_result(folder / LATENCY, bench.plan(timed, **measuring[1]), list(runs))


def _do_step(step: _Step, *, forced: bool) -> StageRun:
    started = time.monotonic()
    fresh = not forced and step.is_fresh()
    if not fresh:
        step.work()
    return StageRun(name=step.name, output=str(step.outputs[0]), fresh=fresh, seconds=time.monotonic() - started)


def _foresee(steps: Sequence[_Step], force: Sequence[str]) -> Iterable[StageRun]:
    """What a run would do; a stage behind one that is not fresh cannot be known to be fresh."""
    fresh = True
    for step in steps:
        fresh = fresh and step.name not in force and step.is_fresh()
        yield StageRun(name=step.name, output=str(step.outputs[0]), fresh=fresh, seconds=0.0)


def _list_steps(
    card: str,
    folder: Path,
    *,
    export: dict[str, Any],
    quantize: dict[str, Any],
    measuring: tuple[dict[str, Any], dict[str, Any]],
    on_progress: Progress,
) -> list[_Step]:
    """The stages in order, each with its plan and its work, over the files of ``folder``."""
    from mbdeploy.stages import bench as bench_stage
    from mbdeploy.stages import export as export_stage
    from mbdeploy.stages import quantize as quantize_stage
    from mbdeploy.stages import report as report_stage
    from mbdeploy.stages import simplify as simplify_stage
    from mbdeploy.stages import verify as verify_stage
    from mbdeploy.stages.reporting.reading import list_results

    fp32, simplified, int8 = variants = [folder / name for name in VERIFIED]
    golden, parity, latency = (folder / name for name in ("golden.npz", PARITY, LATENCY))
    verifying, timing = measuring
    reports = {"html": folder / "report.html", "md": folder / "report.md"}

    def do_verify() -> None:
        report = verify_stage.verify(variants, on_progress=on_progress, **verifying)
        artifact.write_result(parity, verify_stage.plan(variants, **verifying), report)

    def do_bench() -> None:
        runs = bench_stage.bench((simplified, int8), on_progress=on_progress, **timing)
        artifact.write_result(latency, bench_stage.plan((simplified, int8), **timing), runs)

    def plan_report() -> Provenance:
        read = {path.stem: artifact.digest_file(path) for path in (*variants, *list_results(folder))}
        return Provenance(stage="report", params={}, parents=read, tools=artifact.read_tools())

    def do_report() -> None:
        found = report_stage.find_reports([folder])
        for format, path in reports.items():
            artifact.write_bytes(path, report_stage.render_report(found, format=format).encode())
            artifact.write_sidecar(path, plan_report(), None)

    return [
        _Step(
            "export",
            (fp32, golden),
            lambda: export_stage.plan(card, **export),
            lambda: export_stage.export(card, output=fp32, on_progress=on_progress, **export),
        ),
        _Step(
            "simplify",
            (simplified,),
            lambda: simplify_stage.plan(fp32, golden=golden),
            lambda: simplify_stage.simplify(fp32, output=simplified, golden=golden, on_progress=on_progress),
        ),
        _Step(
            "quantize",
            (int8,),
            lambda: quantize_stage.plan(simplified, **quantize),
            lambda: quantize_stage.quantize(simplified, output=int8, on_progress=on_progress, **quantize),
        ),
        _Step("verify", (parity,), lambda: verify_stage.plan(variants, **verifying), do_verify),
        _Step("bench", (latency,), lambda: bench_stage.plan((simplified, int8), **timing), do_bench),
        _Step("report", tuple(reports.values()), plan_report, do_report),
    ]


def _read_checks(folder: Path) -> tuple[Check, ...]:
    """Every gate in the saved results; none where there are no results yet."""
    parity = folder / PARITY
    if not parity.is_file():
        return ()
    return artifact.read_result(parity, ParityReport).checks
