"""The calibrate stage: observe activations once, in shards if need be, and say whether the images were enough."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact, data
from mbdeploy.artifact import Provenance
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.records import Adequacy, CalibrateRecord
from mbdeploy.watch import Limits

_JOB = "mbdeploy.stages.calibrate_job"


def calibrate(
    model: Path,
    *,
    output: Path,
    calibration: str,
    calibration_method: str = "mse",
    num_calibration_samples: int = 128,
    shards: int = 1,
    shard: int | None = None,
    preprocess: str | None = None,
    threads: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> CalibrateRecord:
    """Observe the activations of a float model on calibration images; write what was seen into the folder ``output``.

    ``shards`` divides the images; each shard is a file, and those that are there are not done again, so that a run
    that was stopped goes on. With ``shard`` (from 1) only that one is done, here or on another machine: a call without
    it, over the same folder, does what is missing and merges. Merged files are ``calibration.npz`` (for ``quantize``
    with ``ranges``) and ``ranges.json`` (ONNX Runtime's calibration cache). They do not depend on the number of
    shards, nor on the order of the images.

    Raises:
        UsageError: a shard that does not exist, or an unknown method. ModelError, DataError: unusable input.
        OutputError: nowhere to write. StepError: the native step crashed, hung or ran out of memory.
    """
    if shards < 1 or not 1 <= (shard or 1) <= shards:
        raise UsageError(expected=f"a shard from 1 to {shards}", found=str(shard), todo="correct --shard, or --shards")
    if not model.is_file():
        raise ModelError(where=model, expected="an ONNX model", found="no such file", todo="check the path")
    images = data.open_dataset(calibration, split="calibrate", limit=num_calibration_samples, seed=seed)
    if len(images) < shards:
        raise UsageError(
            where=calibration,
            expected=f"at least {shards} images, one for each shard",
            found=f"{len(images)}",
            todo="give more images, or fewer --shards",
        )
    request = {
        "model": str(model),
        "calibration": calibration,
        "method": calibration_method,
        "samples": num_calibration_samples,
        "preprocess": preprocess,
        "threads": threads,
        "seed": seed,
    }
    shown = {key: request[key] for key in ("method", "samples", "preprocess", "seed")}
    parents = {"model": artifact.digest_file(model), "calibration": images.digest()}
    tools = artifact.read_tools("onnx", "onnxruntime", "numpy", "pillow")
    paths, found = [], {}
    with artifact.lock_folder(output):
        for number in range(1, shards + 1):
            path = output / f"shard-{number}-of-{shards}.npz"
            paths.append(path)
            params = {**shown, "shard": number, "shards": shards}
            provenance = Provenance(stage="calibrate", params=params, parents=parents, tools=tools)
            if artifact.is_fresh(path, provenance):
                found[path.name] = True
            elif shard in (None, number):
                found[path.name] = False
                done = _write(path, "observe_shard", {**request, "shard": [number - 1, shards]}, limits, on_progress)
                artifact.write_sidecar(path, provenance, done)
        adequacy = None
        files: tuple[Path, ...] = ()
        if shard is None:
            files = (output / "calibration.npz", output / "ranges.json")
            with artifact.writing(files[1]) as cache:
                merging = {**request, "shards": [str(path) for path in paths], "cache": str(cache)}
                adequacy = msgspec.convert(_write(files[0], "merge_shards", merging, limits, on_progress), Adequacy)
            provenance = Provenance(stage="calibrate", params=shown, parents=parents, tools=tools)
            artifact.write_sidecar(files[0], provenance, adequacy)
    return CalibrateRecord(
        model=model.name,
        data=images.source,
        samples=len(images),
        shards=found,
        files=tuple(str(file) for file in files),
        adequacy=adequacy,
    )


def _write(path: Path, function: str, request: dict[str, Any], limits: Limits | None, on_progress: Progress) -> Any:
    """Let a child write ``path``, whole or not at all; its answer."""
    with artifact.writing(path) as temporary:
        outcome = run_step(
            f"{_JOB}:{function}", {**request, "output": str(temporary)}, limits=limits, on_progress=on_progress
        )
        return demand_value(
            outcome,
            where=request["model"],
            expected="calibration to run to its end",
            todo="check that the model runs (`mbdeploy verify`) and that the limits suffice",
        )
