"""Shards of a calibration: each observed in a child of its own, here or on a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbdeploy import artifact, assets, data, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.errors import DataError
from mbdeploy.executing import Work, open_executor
from mbdeploy.isolate import Progress, demand_value, run_step
from mbdeploy.watch import Limits

#: Shards of shared work whose number nobody said: the same for any number of workers, so that a run can go on.
SHARDS = 16
_JOB = "mbdeploy.stages.calibrate_job"


def write_in_child(
    path: Path, function: str, request: dict[str, Any], limits: Limits | None, on_progress: Progress
) -> Any:
    """Let a child write ``path`` with a function of the stage's job, whole or not at all; its answer."""
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


def write_shared(
    missing: Sequence[tuple[int, Path, Provenance]],
    request: dict[str, Any],
    shards: int,
    *,
    workers: int | None,
    cluster: str | None,
    on_progress: Progress,
) -> None:
    """Let workers write these shards (number from 1, file, provenance); each is vouched for as it comes."""
    placed = {
        **request,
        "model": str(Path(request["model"]).absolute()),
        "calibration": _place(request["calibration"]),
        "preprocess": request["preprocess"] and _place(request["preprocess"]),
        "parents": missing[0][2].parents,
    }
    works = [
        Work(
            name=path.name,
            function=f"{__name__}:write_shard",
            request={**placed, "shard": [number - 1, shards], "output": str(path.absolute())},
            identity={"key": provenance.key},
        )
        for number, path, provenance in missing
    ]
    waiting = {work.key: (path, provenance) for work, (_, path, provenance) in zip(works, missing, strict=True)}
    with open_executor(workers, cluster) as executor, contextlib.closing(executor.run(works)) as answers:
        title = f"calibrate, shards ({executor.words})"
        on_progress(title, shards - len(waiting), shards)
        for done in answers:
            artifact.write_sidecar(*waiting.pop(done.key), done.value)
            on_progress(title, shards - len(waiting), shards)


def write_shard(request: dict[str, Any], on_progress: Progress) -> Any:
    """A worker's part: one shard, from the same files that the run began with.

    Raises:
        DataError: they are others here.
    """
    images = data.open_dataset(
        request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"]
    )
    found = {"model": model_file.digest_model(Path(request["model"])), "calibration": images.digest()}
    for role, digest in found.items():
        artifact.check_digest(DataError, request[role], digest, request["parents"][role])
    return write_in_child(Path(request["output"]), "observe_shard", request, None, on_progress)


def _place(word: str) -> str:
    """A word for data or preprocessing as it means the same in any folder: paths are whole, names stay."""
    is_name = word in {path.stem for path in assets.list_assets("calibration", ".toml")}
    return str(Path(word).absolute()) if not is_name and Path(word).exists() else word
