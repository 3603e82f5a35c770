"""The halve stage: a float32 ONNX file to float16 weights and arithmetic, for GPUs and NPUs."""

from __future__ import annotations

from pathlib import Path

import msgspec

from mbdeploy import artifact, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.errors import ModelError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.records import HalveRecord
from mbdeploy.watch import Limits

_STEP = "mbdeploy.stages.halve_job:halve_model"


def halve(
    model: Path, *, output: Path, limits: Limits | None = None, on_progress: Progress = ignore_progress
) -> HalveRecord:
    """Write ``model`` in float16 to ``output``, with its sidecar; the input and outputs of the file stay float32.

    Half the size everywhere. Faster where the provider computes in float16 (``cuda``, ``tensorrt``); ONNX Runtime's CPU
    provider casts around each operator and is slower. The same model gives the same bytes.

    Raises:
        ModelError: no float32 model, or weights that float16 cannot hold. OutputError: nowhere to write. StepError: the
        native step crashed, hung or ran out of memory.
    """
    provenance = plan(model)
    with artifact.writing(output) as temporary:
        request = {
            "model": str(model),
            "output": str(temporary),
            "provenance": msgspec.to_builtins(provenance),
        }
        outcome = run_step(_STEP, request, limits=limits, on_progress=on_progress)
        made = demand_value(
            outcome,
            where=model,
            expected="the conversion to float16 to run to its end",
            todo="check that the model runs (`mbdeploy verify`) and that the limits suffice",
        )
    record = msgspec.convert(made, HalveRecord)
    artifact.write_sidecar(output, provenance, record)
    return record


def plan(model: Path) -> Provenance:
    """What ``halve`` would do with this model: the basis of the freshness key."""
    if not model.is_file():
        raise ModelError(where=model, expected="an ONNX model", found="no such file", todo="check the path")
    return Provenance(
        stage="halve",
        params={},
        parents={"model": model_file.digest_model(model)},
        tools=artifact.read_tools("onnx", "onnxruntime"),
    )
