"""Stand-ins for onnxsim's step, each wrong in its own way; they run in children, which import this file by name."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def keep(request: dict[str, Any], on_progress: object) -> None:
    """Do what was asked, and change nothing: right, though useless."""
    _write(request, lambda model: None)


def change_outputs(request: dict[str, Any], on_progress: object) -> None:
    """Say ok to a graph that computes something else."""

    def move_bias(model: Any) -> None:
        bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
        _edit(bias, lambda values: values + values.dtype.type(0.01))

    _write(request, move_bias)


def change_outputs_at_a_fixed_batch(request: dict[str, Any], on_progress: object) -> None:
    """Be right only where the batch is left alone."""
    keep(request, on_progress) if request["jobs"][0]["batch"] is None else change_outputs(request, on_progress)


def make_nan(request: dict[str, Any], on_progress: object) -> None:
    """Write weights that make the outputs NaN."""

    def spoil(model: Any) -> None:
        _edit(model.graph.initializer[0], lambda values: values * values.dtype.type("nan"))

    _write(request, spoil)


def crash(request: dict[str, Any], on_progress: object) -> None:
    os.abort()


def hang(request: dict[str, Any], on_progress: object) -> None:
    time.sleep(600)


def eat_memory(request: dict[str, Any], on_progress: object) -> None:
    bytearray(64 << 30)


def write_garbage(request: dict[str, Any], on_progress: object) -> None:
    for job in request["jobs"]:
        Path(job["output"]).write_bytes(b"\x00garbage")


def _edit(tensor: Any, change: Any) -> None:
    from onnx import numpy_helper

    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor)), tensor.name))


def _write(request: dict[str, Any], edit: Any) -> None:
    import onnx

    for job in request["jobs"]:
        model = onnx.load(request["model"])
        if job["batch"] is not None:
            model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = job["batch"]
        edit(model)
        onnx.save(model, job["output"])


def raise_wrongly(request: dict[str, Any], on_progress: object) -> None:
    """A newer opset, and another network."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(request["model"])
    model.opset_import[0].version = request["opset"]
    weights = model.graph.initializer[0]
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) + 1, weights.name))
    onnx.save(model, request["output"])
