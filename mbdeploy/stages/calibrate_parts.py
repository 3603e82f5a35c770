"""Shards of a calibration: each observed in a child of its own, here or on a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact, assets, data, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.errors import DataError
from mbdeploy.executing import Work, open_executor
from mbdeploy.isolate import Progress, demand_value, run_step
from mbdeploy.watch import Limits

#: How the images are divided where nobody says: one shard for so many images, up to so many shards. The same whoever
#: does the work, so that a run can go on in another way.
_IMAGES, _MOST = 32, 16
_JOB = "mbdeploy.stages.calibrate_job"
#: Number from 1, file, and what the file is to be vouched for by.
Missing = tuple[int, Path, Provenance]


def count_shards(images: int) -> int:
    """Into how many shards so many images are divided."""
    return max(1, min(images // _IMAGES, _MOST))


def write_here(
    missing: Sequence[Missing], request: dict[str, Any], shards: int, limits: Limits | None, on_progress: Progress
) -> None:
    """Let one child write these shards, one after the other; ``limits`` are for each."""
    limits = limits or Limits()
    for_all = msgspec.structs.replace(limits, wall_s=limits.wall_s * len(missing))
    with artifact.lending_folder(missing[0][1]) as scratch:  # a child that is killed leaves nothing
        parts = [
            {
                "shard": [number - 1, shards],
                "made": str(scratch / path.name),
                "output": str(path),
                "provenance": msgspec.to_builtins(provenance),
            }
            for number, path, provenance in missing
        ]
        run_in_child("observe_shards", {**request, "parts": parts}, for_all, on_progress)


def run_in_child(function: str, request: dict[str, Any], limits: Limits | None, on_progress: Progress) -> Any:
    """The answer of a function of the stage's job."""
    return demand_value(
        run_step(f"{_JOB}:{function}", request, limits=limits, on_progress=on_progress),
        where=request["model"],
        expected="calibration to run to its end",
        todo="check that the model runs (`mbdeploy verify`) and that the limits suffice",
    )


def write_shared(
    missing: Sequence[Missing],
    request: dict[str, Any],
    shards: int,
    *,
    workers: int | None,
    cluster: str | None,
    on_progress: Progress,
) -> None:
    """Let workers write these shards; each is vouched for as it comes."""
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
    with artifact.writing(Path(request["output"])) as temporary:
        part = {"shard": request["shard"], "made": str(temporary), "provenance": None}
        return run_in_child("observe_shards", {**request, "parts": [part]}, None, on_progress)


def _place(word: str) -> str:
    """A word for data or preprocessing as it means the same in any folder: paths are whole, names stay."""
    is_name = word in {path.stem for path in assets.list_assets("calibration", ".toml")}
    return str(Path(word).absolute()) if not is_name and Path(word).exists() else word
