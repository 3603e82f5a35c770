"""The inspect stage's measuring child: how fast one thread here multiplies and moves bytes, at its best."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.isolate import Progress

#: Working sets in bytes, from one that fits a small cache to one that fits none.
WORKING_SETS = tuple(1 << power for power in range(15, 28, 2))
#: Channels and pixels a side of the 1x1 convolutions that are timed; the fastest counts.
_MAPS = ((256, 14), (256, 28), (512, 14))
_CONV_SECONDS, _COPY_SECONDS = 0.4, 0.1


def measure_peaks(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Peak 10^9 MACs a second in float32 and u8 x s8, and 10^9 bytes a second by working set; fields of Peaks.

    Of many runs the fastest counts, so that other work on the machine matters least.
    """
    gbytes = [(size, _measure_bandwidth(size)) for size in WORKING_SETS]
    return {
        "gmacs_fp32": max(_measure_conv(_make_float, *place) for place in _MAPS),
        "gmacs_int8": max(_measure_conv(_make_int8, *place) for place in _MAPS),
        "gbytes": gbytes,
    }


def _measure_bandwidth(size: int) -> float:
    """Reading alone, or copying (bytes read and written): whichever moves more."""
    source = np.ones(size // 2, np.uint8)
    target = np.empty_like(source)
    whole = np.ones(size // 4, np.float32)
    copying = size / _time_fastest(lambda: np.copyto(target, source), _COPY_SECONDS)
    reading = size / _time_fastest(whole.max, _COPY_SECONDS)
    return max(copying, reading)


def _measure_conv(make: Callable[[int, int], onnx.ModelProto], channels: int, side: int) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    model = make(channels, side)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    kind = np.uint8 if model.graph.input[0].type.tensor_type.elem_type == TensorProto.UINT8 else np.float32
    image = np.ones((1, channels, side, side), kind)
    macs = _DEPTH * channels * channels * side * side
    return macs / _time_fastest(lambda: session.run(None, {"x": image}), _CONV_SECONDS)


def _time_fastest(call: Callable[[], object], seconds: float) -> float:
    """Nanoseconds of the fastest run in so many seconds: work over it is 10^9 a second."""
    call()
    fastest = float("inf")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter_ns()
        call()
        fastest = min(fastest, time.perf_counter_ns() - start)
    return max(fastest, 1.0)


#: Convolutions in a row, so that what a run costs besides them does not count.
_DEPTH = 4


def _make_float(channels: int, side: int) -> onnx.ModelProto:
    weight = np.full((channels, channels, 1, 1), 1 / channels, np.float32)
    nodes = [helper.make_node("Conv", [f"t{i}" if i else "x", "w"], [f"t{i + 1}"]) for i in range(_DEPTH)]
    return _wrap(nodes, TensorProto.FLOAT, channels, side, {"w": weight})


def _make_int8(channels: int, side: int) -> onnx.ModelProto:
    constants = {
        "w": np.ones((channels, channels, 1, 1), np.int8),
        "scale": np.asarray(1 / 16, np.float32),
        "zero": np.asarray(0, np.uint8),
        "weight_zero": np.asarray(0, np.int8),
    }
    quantization = ["scale", "zero", "w", "scale", "weight_zero", "scale", "zero"]
    nodes = [
        helper.make_node("QLinearConv", [f"t{i}" if i else "x", *quantization], [f"t{i + 1}"]) for i in range(_DEPTH)
    ]
    return _wrap(nodes, TensorProto.UINT8, channels, side, constants)


def _wrap(
    nodes: list[onnx.NodeProto], kind: int, channels: int, side: int, constants: dict[str, Any]
) -> onnx.ModelProto:
    shape = [1, channels, side, side]
    graph = helper.make_graph(
        nodes,
        "peak",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(f"t{_DEPTH}", kind, shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
