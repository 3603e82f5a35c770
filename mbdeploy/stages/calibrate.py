"""The calibrate stage: observe activations once, in shards if need be, and say whether the images were enough."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mbdeploy import artifact, data, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.records import Adequacy, CalibrateRecord
from mbdeploy.stages.calibrate_parts import count_shards, run_in_child, write_here, write_shared
from mbdeploy.watch import Limits


def calibrate(
    model: Path,
    *,
    output: Path,
    calibration: str,
    calibration_method: str = "mse",
    num_calibration_samples: int = 128,
    shards: int | None = None,
    shard: int | None = None,
    preprocess: str | None = None,
    threads: int = 1,
    seed: int = 0,
    workers: int | None = None,
    cluster: str | None = None,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> CalibrateRecord:
    """Observe the activations of a float model on calibration images; write what was seen into the folder ``output``.

    ``shards`` divides the images (by default one for 32 images, 16 at most); each shard is a file, and those that are
    there are not done again, so that a run that was stopped goes on. With ``shard`` (from 1) only that one is done,
    here or on another machine: a call without it, over the same folder, does what is missing and merges. Merged files
    are ``calibration.npz`` (for ``quantize`` with ``ranges``) and ``ranges.json`` (ONNX Runtime's calibration cache).
    They do not depend on the number of shards, nor on the order of the images. ``workers`` processes here, or those of
    a ``cluster`` (``local:N``, ``tcp://host:port``), share the shards.

    Raises:
        UsageError: a shard that does not exist, or an unknown method. ModelError, DataError: unusable input.
        OutputError: nowhere to write. StepError: the native step crashed, hung or ran out of memory.
    """
    is_shared = workers is not None or cluster is not None
    if is_shared and shard is not None:
        raise UsageError(expected="all shards, shared", found=f"--shard {shard}", todo="leave out --shard")
    if not model.is_file():
        raise ModelError(where=model, expected="an ONNX model", found="no such file", todo="check the path")
    images = data.open_dataset(calibration, split="calibrate", limit=num_calibration_samples, seed=seed)
    shards = count_shards(len(images)) if shards is None else shards
    if shards < 1 or not 1 <= (shard or 1) <= shards:
        raise UsageError(expected=f"a shard from 1 to {shards}", found=str(shard), todo="correct --shard, or --shards")
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
    parents = {"model": model_file.digest_model(model), "calibration": images.digest()}
    tools = artifact.read_tools("onnx", "onnxruntime", "numpy", "pillow")
    paths, found, missing = [], {}, []
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
                missing.append((number, path, provenance))
        if is_shared and missing:
            write_shared(missing, request, shards, workers=workers, cluster=cluster, on_progress=on_progress)
        elif missing:
            write_here(missing, request, shards, limits, on_progress)
        adequacy = None
        files: tuple[Path, ...] = ()
        if shard is None:
            files = (output / "calibration.npz", output / "ranges.json")
            with artifact.writing(files[0]) as merged, artifact.writing(files[1]) as cache:
                merging = {**request, "shards": list(map(str, paths)), "output": str(merged), "cache": str(cache)}
                judged = run_in_child("merge_shards", merging, limits, on_progress)
                adequacy = msgspec.convert({**judged, "data": images.source}, Adequacy)
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
