"""What a rule looks at: the graph, its costs, its weights, and the ranges that calibration chose, if any did."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.costs.counting import Counted
from mbdeploy.costs.graph import Graph, Node
from mbdeploy.costs.report import Evidence, LayerCost, Total
from mbdeploy.costs.wire import RawData
from mbdeploy.quant.layers import Layer, find_layers
from mbdeploy.records import LayerRecord

#: The float form of a quantized product, and where its weight and its bias stand.
_FLOAT_FORMS = {"QLinearConv": ("Conv", 3, 8), "QLinearMatMul": ("MatMul", 3, 99)}
#: Weights looked at in one layer; of a larger one, evenly spaced channels.
_MOST_WEIGHTS = 1 << 21
_LAYER_ATTRIBUTES = ("group", "transA", "transB", "alpha", "beta")


class Weights(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's stored weights (float32, or integers where a DQ follows) and bias.

    They are those of ``examined`` out of ``channels`` output channels, evenly spaced.
    """

    layer: Layer
    values: NDArray[Any]
    bias: NDArray[Any] | None
    examined: int
    channels: int


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One network under inspection.

    ``skeleton`` is the executed graph as an ONNX model in float, without large weights; ``weights`` are those
    of its Conv, Gemm and MatMul that the file holds and that are finite. ``records`` are what calibration
    left, by node.
    """

    graph: Graph
    counted: Counted
    total: Total
    skeleton: onnx.ModelProto
    weights: tuple[Weights, ...]
    records: Mapping[str, LayerRecord]
    has_unsigned_activations: bool

    @property
    def is_quantized(self) -> bool:
        """Whether the file has int8 activations already."""
        return bool(self.graph.quantized)

    def pairs(self) -> Iterator[tuple[Node, LayerCost]]:
        """Every counted node with its costs."""
        return zip(self.counted.nodes, self.counted.layers, strict=True)


def make_subject(
    model: onnx.ModelProto,
    graph: Graph,
    counted: Counted,
    total: Total,
    *,
    records: Mapping[str, LayerRecord],
    raw: RawData,
) -> Subject:
    """Everything that the rules need to know of a model; ``raw`` is data of initializers that it lacks."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    skeleton = _make_skeleton(graph)
    quantizers = (node for node in model.graph.node if node.op_type in ("QuantizeLinear", "QLinearConv"))
    zero_points = {node.input[2] for node in quantizers if len(node.input) > 2}
    return Subject(
        graph=graph,
        counted=counted,
        total=total,
        skeleton=skeleton,
        weights=tuple(_read_layers(graph, skeleton, tensors, raw)),
        records=records,
        has_unsigned_activations=any(
            tensors[name].data_type == TensorProto.UINT8 for name in zero_points if name in tensors
        ),
    )


def worst_first(found: Iterable[Evidence], key: Callable[[Evidence], float] | None = None) -> tuple[Evidence, ...]:
    """Evidence with the most bytes first, or by ``key``; places that are alike keep the order of execution."""
    return tuple(sorted(found, key=key or (lambda evidence: evidence.bytes), reverse=True))


def say(count: int, noun: str) -> str:
    """A number and its noun, in the plural where it should be."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _read_layers(
    graph: Graph, skeleton: onnx.ModelProto, tensors: Mapping[str, onnx.TensorProto], raw: RawData
) -> Iterator[Weights]:
    for layer in find_layers(skeleton):
        values = _read_constant(graph, tensors, raw, layer.weight)
        if values is None or not values.size:
            continue
        channels = values.shape[layer.channel_axis]
        index = [slice(None)] * values.ndim
        index[layer.channel_axis] = slice(None, None, math.ceil(values.size / _MOST_WEIGHTS))
        chosen = values[tuple(index)]
        if np.issubdtype(chosen.dtype, np.floating):
            chosen = chosen.astype(np.float32, copy=False)
            if not (np.isfinite(chosen.max()) and np.isfinite(chosen.min())):
                continue
        bias = _read_constant(graph, tensors, raw, layer.bias) if layer.bias else None
        has_bias = bias is not None and bias.shape == (channels,)
        yield Weights(
            layer=layer,
            values=chosen,
            bias=bias[index[layer.channel_axis]] if bias is not None and has_bias else None,
            examined=chosen.shape[layer.channel_axis],
            channels=channels,
        )


def _read_constant(
    graph: Graph, tensors: Mapping[str, onnx.TensorProto], raw: RawData, constant: str
) -> NDArray[Any] | None:
    """The stored values of a constant; None if the file does not hold them as such (external data, another shape)."""
    tensor = tensors.get(graph.constants.get(constant, ""))
    if tensor is None or tensor.data_location == TensorProto.EXTERNAL:
        return None
    if tuple(tensor.dims) != graph.shapes.get(constant):
        return None  # computed from it, not it
    try:
        if tensor.name in raw:
            kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            return np.frombuffer(raw[tensor.name], kind).reshape(tuple(tensor.dims))
        return np.asarray(numpy_helper.to_array(tensor))
    except (ValueError, TypeError):
        return None  # the file lies about its size


def _make_skeleton(graph: Graph) -> onnx.ModelProto:
    model = onnx.ModelProto()
    constants: dict[str, None] = {}
    for node in graph.nodes:
        operator, inputs = node.operator, list(node.inputs)
        if operator in _FLOAT_FORMS:
            operator, weight, bias = _FLOAT_FORMS[operator]
            inputs = [inputs[slot] for slot in (0, weight, bias) if slot < len(inputs)]
        attributes = {name: node.attributes[name] for name in _LAYER_ATTRIBUTES if name in node.attributes}
        model.graph.node.append(helper.make_node(operator, inputs, node.outputs, node.name, **attributes))
        constants.update(dict.fromkeys(name for name in inputs if name in graph.constants and name in graph.shapes))
    for name in constants:
        if name in graph.values and math.prod(graph.shapes[name]) == 1:  # bounds of a Clip
            model.graph.initializer.append(numpy_helper.from_array(graph.values[name], name))
        else:
            model.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=graph.shapes[name])
    for name in graph.outputs:
        model.graph.output.add(name=name)
    return model
