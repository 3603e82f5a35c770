"""What workers do for a search: count networks, profile files, and find and judge a mix of INT8 and float."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.costs.report import LayerCost
from mbdeploy.derive import estimate_accuracy
from mbdeploy.errors import ModelError
from mbdeploy.isolate import Progress, demand_value, run_step
from mbdeploy.mixing.report import MixReport
from mbdeploy.stages.bench_explain import explain
from mbdeploy.stages.evaluate import evaluate
from mbdeploy.stages.inspect import inspect
from mbdeploy.stages.verify import verify
from mbdeploy.sweeping.jobs import WAIT_S, Made, is_as_run
from mbdeploy.timing.layers import sum_us
from mbdeploy.tradeoff import quantize_within
from mbdeploy.watch import Limits

_COUNT_LIMITS = Limits(wall_s=1800.0)


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What a network does, layer by layer, before anything is built."""

    macs: int
    layers: tuple[LayerCost, ...]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """Where the time of a file goes: microseconds by layer, and of a whole run with the profiler on."""

    layers_us: dict[str, float]
    run_us: float


class Profiled(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a variant, and the ``layers`` of its float file, after which their nodes are called."""

    layers: tuple[LayerCost, ...]
    files: tuple[Profile, ...]


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """A search for layers that stay in float, and the file that it made, judged (None: no mix reaches the target)."""

    report: MixReport
    made: Made | None


def count_variants(request: dict[str, Any], on_progress: Progress) -> list[Counted]:
    """The layers of each of ``request["cards"]``, traced in one child and not built."""
    outcome = run_step(
        "mbdeploy.stages.inspect_torch:count_cards", request, limits=_COUNT_LIMITS, on_progress=on_progress
    )
    found = demand_value(
        outcome, where="the search's networks", expected="networks that can be traced", todo="try `mbdeploy inspect`"
    )
    return [
        Counted(macs=one["total"]["macs"], layers=msgspec.convert(one["layers"], tuple[LayerCost, ...]))
        for one in found
    ]


def profile_variant(request: dict[str, Any], on_progress: Progress) -> Profiled:
    """Count the first of ``request["models"]``, the float one, and profile each on its own.

    With ``request["profile"]`` None nothing is profiled: the runtime does not say how long a node takes.
    """
    files = []
    for path, sha256 in zip(request["models"], request["digests"], strict=True):
        artifact.check_digest(ModelError, path, artifact.digest_file(Path(path)), sha256)
        if request["profile"] is not None:
            explained = explain([Path(path)], roofline=False, on_progress=on_progress, **request["profile"]).models[0]
            layers_us = {row.layer: row.us for row in explained.layers if row.layer}
            files.append(Profile(layers_us=layers_us, run_us=sum_us(explained.layers) + explained.between_us))
    return Profiled(layers=inspect(Path(request["models"][0])).layers, files=tuple(files))


def mix_variant(request: dict[str, Any], on_progress: Progress) -> Mixed:
    """Search ``request["model"]`` (float) for the most accurate mix in time, write and judge it beside the model."""
    model, output = Path(request["model"]), Path(request["output"])
    artifact.check_digest(ModelError, model, artifact.digest_file(model), request["sha256"])
    with artifact.lock_folder(model.parent, wait_s=WAIT_S):
        report = quantize_within(model, output=output, on_progress=on_progress, **request["mix"])
        if report.final is None:
            return Mixed(report=report, made=None)
        parity = verify([output], golden=model.parent / "golden.npz", on_progress=on_progress)
        top1 = None
        if request["data"] is not None:
            top1 = estimate_accuracy(evaluate([output], on_progress=on_progress, **request["data"]), 0)
    run = next(filter(is_as_run, parity.rows))
    return Mixed(
        report=report,
        made=Made(
            recipe=f"{request['mix']['recipe']}+mix",
            path=str(output),
            sha256=artifact.digest_file(output),
            size_bytes=output.stat().st_size,
            sqnr_db=run.metrics.sqnr_db,
            top1=top1,
        ),
    )
