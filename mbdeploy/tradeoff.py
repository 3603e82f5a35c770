"""Quantize within goals: as much INT8 as serves them, and nothing written that misses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.calls import describe_call
from mbdeploy.derive import compare_series
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.mixing.front import choose_fastest, choose_mix, foresee
from mbdeploy.mixing.report import Goals, Mix, MixReport
from mbdeploy.mixing.verdict import is_refused, judge_mix, judge_search
from mbdeploy.results import BenchRun
from mbdeploy.stages.bench import bench
from mbdeploy.stages.mix import search
from mbdeploy.stages.mix_measure import open_laboratory
from mbdeploy.stages.mix_page import render_search
from mbdeploy.stages.quantize import quantize
from mbdeploy.watch import Limits

#: Mixes that are quantized in full, at most.
TRIES = 4
#: Techniques that fit a layer to what the layers before it make of the images: other ones in every mix.
_FITTED = ("refit", "feedback")


def quantize_within(
    model: Path,
    *,
    output: Path,
    max_drop: float | None = None,
    min_sqnr: float | None = None,
    target_ratio: float | None = None,
    search_data: str | None = None,
    num_search_samples: int = 128,
    provider: str = "cpu",
    calibration: str | None = None,
    ranges: Path | None = None,
    recipe: str = "accurate",
    without: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    calibration_method: str | None = None,
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    threads: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> MixReport:
    """Quantize so as to lose at most ``max_drop`` points of top-1, to keep ``min_sqnr`` dB, and to take at most
    ``target_ratio`` of optimised FP32's time on ``provider``: any of the three.

    Rules: 1. everything is quantized once without what the recipe fits to its inputs (the other keywords are those of
    ``quantize``); with that, moves to float and a path of mixes are measured (:func:`mbdeploy.stages.mix.search`).
    2. The most promising mix is quantized in full and measured again, its time by ``bench`` at its defaults: in several
    fresh processes, with the A/A control. If it misses the goals or is no gain the next one is made, at most ``TRIES``
    of them. The first that is not refused is written to ``output``, its checks in the report; they are inconclusive
    where the machine could not tell. 3. Where all are refused no file is written, and ``chosen`` is None: ship the
    float file. 4. ``verdict`` says ship, don't ship or inconclusive (:func:`mbdeploy.mixing.verdict.judge_search`). The
    report lies beside the output as ``NAME.mix.json``, and as a page, either way. 5. Images come from ``search_data``,
    else from ``calibration``; those that calibrated are left out where others remain. The choice rests on times, so it
    can differ from run to run; ``keep_float`` of the report, given to ``quantize``, makes the same file again.

    Raises:
        UsageError: no goal, or one that makes no sense. Else as ``quantize`` and ``bench``.
    """
    told = {name: value for name, value in locals().items() if name != "model"}
    call = describe_call("quantize", told, models=(model,))
    goals = Goals(max_drop=max_drop, min_sqnr=min_sqnr, target_ratio=target_ratio)
    _check_goals(goals)
    source = search_data or calibration
    if source is None:
        raise UsageError(
            expected="images to search with", found="--ranges alone", todo="give --search-data, or --calibration"
        )
    known: dict[str, Any] = {
        "calibration": calibration,
        "ranges": ranges,
        "recipe": recipe,
        "calibration_method": calibration_method,
        "num_calibration_samples": num_calibration_samples,
        "preprocess": preprocess,
        "threads": threads,
        "seed": seed,
        "limits": limits,
        "on_progress": on_progress,
    }
    laboratory = open_laboratory(
        model,
        source,
        calibrated_on=None if calibration is None else (calibration, num_calibration_samples, seed),
        limit=num_search_samples,
        preprocess=preprocess,
        provider=provider,
        threads=threads,
        on_progress=on_progress,
    )
    with artifact.lending_folder(output) as scratch:
        kit, plain, full = (scratch / name for name in ("kit", "plain.onnx", "full"))
        kit.mkdir()
        unfitted = (*without, *_FITTED)
        quantize(model, output=plain, kit=kit, keep_float=keep_float, without=unfitted, **known)
        report = search(
            model,
            kit,
            scratch,
            laboratory,
            goals=goals,
            keep_float=keep_float,
            limits=limits,
            on_progress=on_progress,
        )

        target = target_ratio or report.mixes[0].ratio.value

        def make(mix: Mix) -> tuple[Mix, BenchRun]:
            made = full / output.name
            quantize(model, output=made, keep_float=mix.keep_float, without=without, **known)
            run = bench(
                [model, made],
                providers=(provider,),
                threads=threads,
                batch_size=laboratory.batch,
                inputs=source,
                preprocess=preprocess,
                seed=seed,
                on_progress=on_progress,
            )[0]
            return laboratory.measure_made(mix, made, compare_series(run, 1), target), _place_series(run, output)

        report = _settle(report, make)
        report = msgspec.structs.replace(report, verdict=judge_search(report), call=call)
        if report.final is not None:
            artifact.move_made(full / output.name, output)
    artifact.write_json(name_report(output), report)
    artifact.write_bytes(name_report(output).with_suffix(".html"), render_search(report).encode())
    return report


def _settle(report: MixReport, make: Callable[[Mix], tuple[Mix, BenchRun]]) -> MixReport:
    """Make the most promising mixes in full until one is not refused.

    The search's times, of one process, only say which mix to make next: before time refuses all, the fastest that is
    accurate enough is made and timed in full.
    """
    goals = report.goals
    made: list[Mix] = []
    timed: dict[str, BenchRun] = {}
    reason, is_time_known = "", False
    while len(made) < TRIES:
        expected = foresee(report.mixes, made)
        promising, why = choose_mix(expected, goals)
        if promising is None:
            reason = reason or why
            promising = None if is_time_known else choose_fastest(expected, goals)
            why = "the fastest that is accurate enough; in one process's estimate its time missed the goals"
        if promising is None:
            break
        mix, run = make(promising)
        made.append(mix)
        timed[mix.name] = run
        checks = judge_mix(mix, run, goals)
        done = msgspec.structs.replace(report, made=tuple(made), timed=timed)
        if not is_refused(checks):
            return msgspec.structs.replace(done, chosen=mix.name, reason=why, final=mix, checks=checks)
        _, reason = choose_mix(made, goals)
        is_time_known = is_time_known or choose_fastest([mix], goals) is mix
    return msgspec.structs.replace(report, made=tuple(made), timed=timed, reason=reason)


def _place_series(run: BenchRun, output: Path) -> BenchRun:
    """The run with its candidate under the path that the file gets; it is part of the search's own call."""
    first, second = run.series
    moved = msgspec.structs.replace(second, model=msgspec.structs.replace(second.model, path=str(output)))
    return msgspec.structs.replace(run, series=(first, moved), call=None)


def name_report(output: Path) -> Path:
    """Where the report of a search lies: ``NAME.mix.json`` beside ``NAME.onnx``; its page is ``NAME.mix.html``."""
    return output.with_suffix(".mix.json")


def _check_goals(goals: Goals) -> None:
    given = {name: value for name, value in msgspec.structs.asdict(goals).items() if value is not None}
    if not given:
        raise UsageError(
            expected="a goal: max_drop, min_sqnr or target_ratio", found="none", todo="give one, or call `quantize`"
        )
    for name, value in given.items():
        if not 0 <= value < float("inf"):
            raise UsageError(
                where=name, expected="a finite number of 0 or more", found=f"{value:g}", todo="give such a number"
            )
