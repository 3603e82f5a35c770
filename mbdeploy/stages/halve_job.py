"""The halve stage's child: ONNX Runtime's own converter, and the check that float16 can hold the weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from mbdeploy import model_file
from mbdeploy.errors import ModelError
from mbdeploy.isolate import Progress

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def halve_model(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Convert ``request["model"]`` into ``request["output"]``; the answer holds the fields of a HalveRecord."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    source = Path(request["model"])
    model = model_file.load_whole(source)
    weights = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT
    }
    _refuse_unsuitable(model, weights, source)
    lost = sum(int(((values != 0) & (np.abs(values) < _SMALLEST)).sum()) for values in weights.values())
    entries = model_file.read_metadata(model)
    halved: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    entries["mbdeploy.stage"] = "fp16"
    entries["mbdeploy.provenance"] = model_file.dump_json(request["provenance"])
    model_file.write_metadata(halved, entries)
    model_file.save_model(halved, Path(request["output"]))
    kinds = Counter(TensorProto.DataType.Name(tensor.data_type).lower() for tensor in halved.graph.initializer)
    return {
        "weights": sum(values.size for values in weights.values()),
        "lost": lost,
        "largest": max((float(np.abs(values).max()) for values in weights.values() if values.size), default=0.0),
        "types": dict(sorted(kinds.items())),
    }


def _refuse_unsuitable(model: onnx.ModelProto, weights: dict[str, np.ndarray[Any, Any]], source: Path) -> None:
    quantized = any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node)
    if quantized or not weights:
        raise ModelError(
            where=source,
            expected="a model with float32 weights",
            found="one that is quantized already" if quantized else "none",
            todo="give the simplified float file",
        )
    for name, values in weights.items():
        if not (np.abs(values) <= _LARGEST).all():
            raise ModelError(
                where=source,
                expected=f"weights of at most {_LARGEST:g}, which float16 ends at",
                found=f"{float(np.abs(values).max()):g} in {name!r}",
                todo="scale the network, or keep it in float32",
            )
