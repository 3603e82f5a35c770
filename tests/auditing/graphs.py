"""Small quantized graphs by hand: one layer between its scales, as Q/DQ pairs or as an integer operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

TYPES = {"u8": (np.uint8, TensorProto.UINT8), "s8": (np.int8, TensorProto.INT8)}
#: Of 4 channels, the first two hold a pair beyond 128 (of either sign), the others none.
CLIPPING = np.array([[100, 90, 1, 2], [-80, -70, 3, 4], [100, -90, 5, 6], [10, 20, 30, 40]], np.int8)
CLEAN = np.array([[64, 64, 1, 2], [-64, -64, 3, 4], [100, -90, 5, 6], [127, 1, 30, 40]], np.int8)
STEP, OUT_STEP = np.float32(0.02), np.float32(0.05)


class Graph:
    """Nodes and constants that become a model; ``hold`` stores a constant and gives its name back."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, NDArray[Any]] = {}

    def hold(self, name: str, value: Any) -> str:
        self.tensors[name] = np.asarray(value)
        return name

    def add(self, operator: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name or output, **attributes))
        return output

    def build(self, shape: list[Any], *, rank: int = 4, opset: int = 18) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "small",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"axis {axis}" for axis in range(rank)])],
            [numpy_helper.from_array(value, name) for name, value in self.tensors.items()],
        )
        opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def as_conv(integers: NDArray[Any]) -> NDArray[Any]:
    """Weights (out, in) of a 1x1 convolution."""
    return integers.reshape(*integers.shape, 1, 1)


def make_qdq(
    weight: NDArray[Any] | None = None,
    *,
    scale: Any = None,
    zero: Any = None,
    bias: NDArray[Any] | None = None,
    bias_scale: Any = None,
    activation: str = "u8",
    group: int = 1,
    between: str = "",
    result: str = "",
    opset: int = 18,
    size: int = 4,
    step: Any = STEP,
) -> onnx.ModelProto:
    """x -> Q -> DQ -> Conv "layer" -> Q -> DQ -> y; ``between`` is an operator before the last Q."""
    weight = as_conv(CLIPPING) if weight is None else weight
    channels, kind = weight.shape[0], weight.dtype
    scale = np.full(channels, 0.01, np.float32) if scale is None else np.asarray(scale, np.float32)
    zero = np.zeros(scale.shape, kind) if zero is None else zero
    real, _ = TYPES[activation]
    graph = Graph()
    graph.hold("step", np.asarray(step, np.float32))
    graph.hold("zero", real(0))
    graph.hold("out.step", OUT_STEP)
    graph.hold("out.zero", TYPES[result or activation][0](0))
    graph.add("QuantizeLinear", ["x", "step", "zero"], "x.q")
    graph.add("DequantizeLinear", ["x.q", "step", "zero"], "x.dq")
    graph.hold("w", weight)
    graph.hold("w.scale", scale)
    graph.hold("w.zero", zero)
    axis = {"axis": 0} if scale.ndim else {}
    inputs = ["x.dq", graph.add("DequantizeLinear", ["w", "w.scale", "w.zero"], "w.dq", **axis)]
    if bias is not None:
        own = np.float32(step) * scale if bias_scale is None else np.asarray(bias_scale, np.float32)
        pair = [graph.hold("b", bias), graph.hold("b.scale", own)]
        inputs.append(graph.add("DequantizeLinear", pair, "b.dq", **({"axis": 0} if own.ndim else {})))
    last = graph.add("Conv", inputs, "c", "layer", group=group)
    if between:
        last = graph.add(between, [last], "between")
    graph.add("QuantizeLinear", [last, "out.step", "out.zero"], "y.q")
    graph.add("DequantizeLinear", ["y.q", "out.step", "out.zero"], "y")
    return graph.build(["n", weight.shape[1] * group, size, size], opset=opset)


def make_qlinear(
    weight: NDArray[Any] | None = None,
    *,
    scale: Any = None,
    bias: NDArray[Any] | None = None,
    activation: str = "u8",
    group: int = 1,
) -> onnx.ModelProto:
    """x -> Q -> QLinearConv "layer" -> DQ -> y."""
    weight = as_conv(CLIPPING) if weight is None else weight
    scale = np.full(weight.shape[0], 0.01, np.float32) if scale is None else np.asarray(scale, np.float32)
    real, _ = TYPES[activation]
    graph = Graph()
    for name, value in {"step": STEP, "zero": real(0), "out.step": OUT_STEP, "out.zero": real(0), "w": weight}.items():
        graph.hold(name, value)
    graph.hold("w.scale", scale)
    graph.hold("w.zero", np.zeros(scale.shape, weight.dtype))
    graph.add("QuantizeLinear", ["x", "step", "zero"], "x.q")
    inputs = ["x.q", "step", "zero", "w", "w.scale", "w.zero", "out.step", "out.zero"]
    if bias is not None:
        inputs.append(graph.hold("b", bias))
    graph.add("QLinearConv", inputs, "y.q", "layer", group=group)
    graph.add("DequantizeLinear", ["y.q", "out.step", "out.zero"], "y")
    return graph.build(["n", weight.shape[1] * group, 4, 4])


def make_gemm(*, qoperator: bool = False, scale: Any = 0.01) -> onnx.ModelProto:
    """x (n, 4, 1, 1) -> Q -> Flatten -> Gemm or QGemm "layer" with transposed weights -> y, in either format."""
    graph = Graph()
    values = {"step": STEP, "zero": np.uint8(0), "out.step": OUT_STEP, "out.zero": np.uint8(0), "w": CLIPPING}
    for name, value in values.items():
        graph.hold(name, value)
    graph.hold("w.scale", np.asarray(scale, np.float32))
    graph.hold("w.zero", np.zeros(np.asarray(scale).shape, np.int8))
    graph.hold("b", np.array([100, 200, 300, 400], np.int32))
    graph.hold("b.scale", np.asarray(STEP * np.asarray(scale, np.float32), np.float32))
    graph.add("QuantizeLinear", ["x", "step", "zero"], "x.q")
    if qoperator:
        graph.add("Flatten", ["x.q"], "f")
        names = ["f", "step", "zero", "w", "w.scale", "w.zero", "b", "out.step", "out.zero"]
        graph.add("QGemm", names, "y.q", "layer", domain="com.microsoft", transB=1)
    else:
        graph.add("DequantizeLinear", ["x.q", "step", "zero"], "x.dq")
        graph.add("Flatten", ["x.dq"], "f")
        graph.add("QuantizeLinear", ["f", "step", "zero"], "f.q")
        graph.add("DequantizeLinear", ["f.q", "step", "zero"], "f.dq")
        graph.add("DequantizeLinear", ["w", "w.scale", "w.zero"], "w.dq", **({"axis": 0} if np.ndim(scale) else {}))
        graph.add("DequantizeLinear", ["b", "b.scale"], "b.dq", **({"axis": 0} if np.ndim(scale) else {}))
        graph.add("Gemm", ["f.dq", "w.dq", "b.dq"], "g", "layer", transB=1)
        graph.add("QuantizeLinear", ["g", "out.step", "out.zero"], "y.q")
    graph.add("DequantizeLinear", ["y.q", "out.step", "out.zero"], "y")
    return graph.build(["n", 4, 1, 1], rank=2)


def make_dynamic(*, scale: Any = 0.01, conv: bool = False) -> onnx.ModelProto:
    """x -> DynamicQuantizeLinear -> MatMulInteger or ConvInteger "layer" -> Cast -> Mul with both scales -> y."""
    graph = Graph()
    graph.nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], ["x.q", "x.scale", "x.zero"], "dynamic"))
    graph.hold("w", as_conv(CLIPPING) if conv else np.ascontiguousarray(CLIPPING.T))
    graph.hold("w.scale", np.asarray(scale, np.float32))
    graph.hold("w.zero", np.int8(0))
    if conv:
        graph.add("ConvInteger", ["x.q", "w", "x.zero", "w.zero"], "sums", "layer")
    else:
        graph.add("Flatten", ["x.q"], "rows")
        graph.add("MatMulInteger", ["rows", "w", "x.zero", "w.zero"], "sums", "layer")
    graph.add("Cast", ["sums"], "floats", to=TensorProto.FLOAT)
    graph.add("Mul", ["x.scale", "w.scale"], "factor")
    graph.add("Mul", ["floats", "factor"], "y")
    return graph.build(["n", 4, 1, 1], rank=4 if conv else 2)


def run(model: onnx.ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The model's output without graph optimisation."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    answer: NDArray[np.float32] = session.run(None, {"x": images})[0]
    return answer
