"""Quantize within goals: as much INT8 as serves them, and nothing written that misses them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.mixing.front import choose_mix, foresee, judge_mix
from mbdeploy.mixing.report import Goals, Mix, MixReport
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
    2. The most promising mix is quantized in full and measured again; if it misses the goals the next one is, at most
    ``TRIES`` of them. The first that reaches them is written to ``output``, its checks in the report. 3. Where none
    does no file is written, and ``chosen`` is None: ship the float file. 4. The report lies beside the output as
    ``NAME.mix.json``, and as a page, either way. 5. Images come from ``search_data``, else from ``calibration``; those
    that calibrated are left out where others remain. The choice rests on times, so it can differ from run to run;
    ``keep_float`` of the report, given to ``quantize``, makes the same file again.

    Raises:
        UsageError: no goal, or one that makes no sense. Else as ``quantize`` and ``bench``.
    """
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

        def make(mix: Mix) -> Mix:
            made = full / output.name
            quantize(model, output=made, keep_float=mix.keep_float, without=without, **known)
            return laboratory.measure_mixes({mix.name: (made, mix.keep_float)}, goals)[0]

        report = _settle(report, goals, make)
        if report.final is not None:
            artifact.move_made(full / output.name, output)
    artifact.write_json(name_report(output), report)
    artifact.write_bytes(name_report(output).with_suffix(".html"), render_search(report).encode())
    return report


def _settle(report: MixReport, goals: Goals, make: Callable[[Mix], Mix]) -> MixReport:
    """Make the most promising mixes in full until one reaches the goals."""
    made: list[Mix] = []
    reason = ""
    while len(made) < TRIES:
        promising, why = choose_mix(foresee(report.mixes, made), goals)
        if promising is None:
            reason = reason or why
            break
        mix = make(promising)
        made.append(msgspec.structs.replace(mix, on_front=promising.on_front))
        checks = judge_mix(made[-1], goals, report.provider)
        if all(check.passed is not False for check in checks):
            done = {"made": tuple(made), "chosen": mix.name, "reason": why, "final": made[-1], "checks": checks}
            return msgspec.structs.replace(report, **done)
        _, reason = choose_mix(made, goals)
    return msgspec.structs.replace(report, made=tuple(made), reason=reason)


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
