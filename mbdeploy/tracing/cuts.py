"""Cut a graph at tensors that its optimised form has too, and take the rounding out of what follows a cut."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbdeploy.model_file import list_readers

#: Operators that runtimes fuse into the one before: a tensor between the two does not exist as executed.
_ACTIVATIONS = frozenset("Relu Clip LeakyRelu Sigmoid HardSigmoid HardSwish Tanh".split())
_LAYERS = frozenset("Conv Gemm MatMul ConvTranspose".split())
_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor after which a graph can end. ``node`` and ``operator`` are what computes it.

    ``scale`` and ``zero_point`` are the steps of an 8-bit tensor; of a float one, scale is None. ``sources`` are the
    cuts' tensors, and the graph's input, that the node computes it from.
    """

    tensor: str
    node: str
    operator: str
    sources: tuple[str, ...]
    scale: float | None = None
    zero_point: int = 0

    def decode(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """The tensor's values as real numbers."""
        if self.scale is None:
            return values.astype(np.float32)
        decoded: NDArray[np.float32] = (values.astype(np.float32) - self.zero_point) * np.float32(self.scale)
        return decoded


def list_cuts(model: onnx.ModelProto) -> list[Cut]:
    """Every cut of a sorted graph, in its order; the last ones are the graph's outputs, unless they are listed already.

    Rules: 1. in a graph with 8-bit activations, cuts are what QuantizeLinear makes of them: these tensors run as they
    stand between fused operators. 2. In a float graph they are the outputs of nodes that no activation follows.
    """
    graph = model.graph
    constants = _read_constants(graph)
    makers = _list_makers(graph)
    inputs = {value.name for value in graph.input}
    quantized = [node.output[0] for node in graph.node if _read_grid(node, constants) and node.input[0] not in inputs]
    readers = list_readers(graph)
    floats = [
        node.output[0]
        for node in graph.node
        if node.op_type not in ("Constant", _DEQUANTIZE)
        and not (len(readers.get(node.output[0], [])) == 1 and readers[node.output[0]][0].op_type in _ACTIVATIONS)
    ]
    places = quantized or floats
    for output in graph.output:
        maker = makers.get(output.name)
        same = maker is not None and maker.op_type == _DEQUANTIZE and maker.input[0] in places
        if output.name not in places and not same:
            places.append(output.name)
    return [_describe(graph, makers, constants, inputs, place, set(places)) for place in places]


def end_at(
    model: onnx.ModelProto, tensors: Sequence[str], start: str = "", shape: Sequence[int] = ()
) -> onnx.ModelProto | None:
    """The part of the graph that these tensors need, with them as its outputs; from ``start`` on, if it is given.

    None if they need anything besides ``start``, whose shape without the batch is ``shape``. The part's input is
    float32: an 8-bit ``start`` is quantized in it.
    """
    graph = model.graph
    constants = _read_constants(graph)
    makers = _list_makers(graph)
    inputs = {value.name for value in graph.input} - set(constants)
    wanted, seen = list(tensors), set()
    kept = set()
    while wanted:
        name = wanted.pop()
        if name in seen or name == start or name == "" or name in constants:
            continue
        seen.add(name)
        if name in inputs:
            if start:
                return None
            continue
        kept.add(makers[name].output[0])
        wanted += makers[name].input
    nodes = [node for node in graph.node if node.output[0] in kept]
    values = [value for value in graph.input if value.name in inputs]
    if start:
        entry = makers[start]
        batch = graph.input[0].type.tensor_type.shape.dim[0].dim_value or "n"
        values = [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, *shape])]
        if entry.op_type == _QUANTIZE:
            nodes.insert(0, helper.make_node(_QUANTIZE, ["x", *entry.input[1:]], [start], "entry"))
        else:
            nodes.insert(0, helper.make_node("Identity", ["x"], [start], "entry"))
    return _build(model, nodes, values, tensors)


def quantize_only(model: onnx.ModelProto, kept: Collection[str]) -> onnx.ModelProto:
    """The graph with Q/DQ only at the activations ``kept`` (tensors of cuts); elsewhere their range holds, unrounded.

    The range stays because quantizers leave out a Relu that it already implies.
    """
    graph = model.graph
    constants = _read_constants(graph)
    renamed: dict[str, str] = {}
    bounds: dict[str, onnx.TensorProto] = {}
    nodes = []
    for node in graph.node:
        grid = _read_grid(node, constants)
        if grid is not None and node.output[0] not in kept:
            scale, zero = grid
            limits = np.iinfo(zero.dtype)
            for end, level in (("low", limits.min), ("high", limits.max)):
                value = np.float32((level - float(zero)) * scale)
                name = f"{node.output[0]}.{end}"
                bounds[name] = numpy_helper.from_array(np.asarray(value), name)
            source = renamed.get(node.input[0], node.input[0])
            nodes.append(
                helper.make_node("Clip", [source, *list(bounds)[-2:]], [f"{node.output[0]}.kept"], f"{node.name}.range")
            )
            renamed[node.output[0]] = f"{node.output[0]}.kept"
        elif node.op_type == _DEQUANTIZE and node.input[0] in renamed:
            renamed[node.output[0]] = renamed[node.input[0]]
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(copy.input):
                copy.input[index] = renamed.get(name, name)
            nodes.append(copy)
    nodes += [
        helper.make_node("Identity", [renamed[output.name]], [output.name], f"{output.name}.end")
        for output in graph.output
        if output.name in renamed
    ]
    outputs = [output.name for output in graph.output]
    return _build(model, nodes, list(graph.input), outputs, bounds)


def find_float(cut: Cut) -> str:
    """What ``quantize_only`` calls the unrounded tensor of a cut that it did not keep."""
    return f"{cut.tensor}.kept" if cut.scale is not None else cut.tensor


def _build(
    model: onnx.ModelProto,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[str],
    more: Mapping[str, onnx.TensorProto] | None = None,
) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in model.graph.initializer if tensor.name in used]
    built = helper.make_graph(
        nodes,
        "part",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],  # ONNX Runtime infers their types
        [*weights, *(more or {}).values()],
    )
    return helper.make_model(built, opset_imports=model.opset_import, ir_version=model.ir_version)


def _describe(
    graph: onnx.GraphProto,
    makers: Mapping[str, onnx.NodeProto],
    constants: Mapping[str, onnx.TensorProto],
    inputs: Collection[str],
    place: str,
    places: Collection[str],
) -> Cut:
    """A cut with the node between it and the cuts before: the layer if there is one, else the last node."""
    between: list[onnx.NodeProto] = []
    sources: dict[str, None] = {}
    waiting = [place]
    while waiting:
        name = waiting.pop()
        node = makers.get(name)
        if (name in inputs and name not in constants) or (name != place and name in places):
            sources[name] = None
        elif node is not None and node not in between and name not in constants:
            between.append(node)
            waiting += node.input
    own = [node for node in between if node.op_type not in (_QUANTIZE, _DEQUANTIZE, "Constant")] or between
    node = next((node for node in own if node.op_type in _LAYERS), own[0])
    grid = _read_grid(makers[place], constants)
    return Cut(
        tensor=place,
        node=node.name or node.output[0],
        operator=node.op_type,
        sources=tuple(sources),
        scale=grid[0] if grid else None,
        zero_point=int(grid[1]) if grid else 0,
    )


def _list_makers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in graph.node for name in node.output}


def _read_constants(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Initializers and the values of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    return found | {
        node.output[0]: item.t
        for node in graph.node
        if node.op_type == "Constant"
        for item in node.attribute
        if item.name == "value"
    }


def _read_grid(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, NDArray[Any]] | None:
    """Scale and zero point of the QuantizeLinear of an activation that has one step; None of any other node."""
    if node.op_type != _QUANTIZE or node.input[0] in constants or node.input[1] not in constants:
        return None
    scale = numpy_helper.to_array(constants[node.input[1]])
    given = len(node.input) > 2 and node.input[2] in constants
    zero = numpy_helper.to_array(constants[node.input[2]]) if given else np.zeros(1, np.uint8)
    return (float(scale.reshape(-1)[0]), zero.reshape(-1)[0]) if scale.size == 1 else None
