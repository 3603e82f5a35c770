"""Quantize with many workers: they observe the calibration images, and one process makes the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.recipes import find_recipe
from mbdeploy.records import QuantizeRecord
from mbdeploy.stages.calibrate import calibrate
from mbdeploy.stages.quantize import quantize


def quantize_shared(
    model: Path,
    *,
    output: Path,
    workers: int | None = None,
    cluster: str | None = None,
    calibration: str | None = None,
    ranges: Path | None = None,
    recipe: str = "accurate",
    calibration_method: str | None = None,
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    threads: int = 1,
    seed: int = 0,
    on_progress: Progress = ignore_progress,
    **quantizing: Any,
) -> QuantizeRecord:
    """``quantize`` to the same graph, with activations observed by ``workers`` processes or a ``cluster``.

    The other keywords are those of :func:`mbdeploy.stages.quantize.quantize`. What ``accurate`` does with the images
    after that goes from layer to layer, and is one process's work. What was observed stays in the folder
    NAME.calibration beside the output, so that a run that was stopped goes on.

    Raises:
        UsageError: no images, or ranges that are there already. Else as ``calibrate`` and ``quantize``.
    """
    if calibration is None or ranges is not None:
        raise UsageError(
            expected="calibration images to share", found="--ranges" if ranges else "none", todo="leave out --workers"
        )
    images: dict[str, Any] = {
        "calibration": calibration,
        "num_calibration_samples": num_calibration_samples,
        "preprocess": preprocess,
        "threads": threads,
        "seed": seed,
        "on_progress": on_progress,
        "calibration_method": calibration_method or find_recipe(recipe).calibration_method,
    }
    folder = output.with_suffix(".calibration")
    calibrate(model, output=folder, workers=workers, cluster=cluster, **images)
    return quantize(model, output=output, ranges=folder / "calibration.npz", recipe=recipe, **{**images, **quantizing})
