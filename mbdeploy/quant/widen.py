"""Widen depthwise convolutions to whole vectors of channels.

ONNX Runtime's fast int8 depthwise kernel takes only multiples of 16 channels (of 8 on ARM); with any other number the
layer goes to a general kernel, so that 72 channels cost twice what 80 do. So channels of zeros are added where nothing
but convolutions and operators that treat every channel alike can see them. No sum of integers changes by a zero, so no
output changes by a bit.

It always pays. Alone, layers of 8 to 244 channels on maps of 4x4 to 112x112 take 0.30 to 0.88 of their time; with the
1x1 convolutions around them, which do compute the zeros, 4 to 232 channels take 0.46 to 1.01, 17 -> 32 no more than
1.00 (AVX-512 VNNI, ONNX Runtime 1.31, one thread, medians of 60 pairs). GhostNet, whose Concats put zeros between the
channels of every module so that all readers compute them, takes 0.79 of its time. A 1x1 convolution itself gains only
where a width is no multiple of 4.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Set
from typing import Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from mbdeploy.quant.channels import Layout, Spaces

#: Channels of which the fast depthwise kernel wants a multiple.
LANES = 16

# Operators whose output channel depends on the same channel of their (activation) inputs alone.
_CHANNELWISE = frozenset(
    "QuantizeLinear DequantizeLinear Relu Clip LeakyRelu Sigmoid HardSigmoid HardSwish Identity Add Mul "
    "GlobalAveragePool AveragePool MaxPool".split()
)
_Tensors = Mapping[str, TensorProto]


class Convolution(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A Conv of one group, or depthwise, with the constants that hold its weight and bias, and their scales.

    ``steps`` are scales and zero points. ``is_fast`` if widening gets it the fast kernel: int8 weights around zero.
    """

    node: onnx.NodeProto
    dims: tuple[int, ...]
    depthwise: bool
    is_fast: bool
    stored: tuple[str, ...]
    steps: tuple[str, ...]

    @property
    def channels(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """The tensors that it reads and writes, and how many channels they have."""
        return (self.node.input[0], self.dims[0 if self.depthwise else 1]), (self.node.output[0], self.dims[0])


def widen_depthwise(placed: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Add channels of zeros to int8 depthwise convolutions, in place; answers with (before, after) by node.

    Rules: 1. only where the channels come from convolutions and end in convolutions, through channelwise operators and
    Concats; a graph's input or output, a Split or Reshape, a constant per channel stand in the way. 2. New weights
    and biases are zero, so new channels hold what the activation makes of zero, and nothing reads them with a weight.
    3. Shapes that the file notes are forgotten.
    """
    graph = placed.graph
    if any(item.HasField("g") or item.graphs for node in graph.node for item in node.attribute):
        return {}  # what a branch of an If reads cannot be seen from here
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    layers = read_layers(graph, tensors)
    spaces = _find_spaces(graph, tensors, layers)
    channels = spaces.measure(
        (name, width, len(layer.dims)) for layer in layers.values() for name, width in layer.channels
    )
    added = _count_missing(layers.values(), spaces, spaces.list_open(channels))
    widened = {}
    for layer in layers.values():
        (source, before), (made, _) = layer.channels
        into, out = (spaces.lay_out(name, channels, added) for name in (source, made))
        _pad_layer(layer, into, out, tensors)
        if layer.depthwise and into:
            widened[layer.node.name] = (before, sum(kept + zeros for kept, zeros in into))
    if widened:
        del graph.value_info[:]  # rule 3
    return widened


def read_layers(graph: onnx.GraphProto, tensors: _Tensors) -> dict[str, Convolution]:
    """The layers that can be padded, by output; constants that others use as well cannot."""
    makers = {name: node for node in graph.node for name in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    layers = {}
    for node in graph.node:
        if node.op_type == "Conv" and (layer := _read_layer(node, tensors, makers, uses)):
            layers[node.output[0]] = layer
    return layers


def _read_layer(
    node: onnx.NodeProto, tensors: _Tensors, makers: Mapping[str, onnx.NodeProto], uses: Counter[str]
) -> Convolution | None:
    stored: list[str] = []
    steps: list[str] = []
    for name in filter(None, node.input[1:]):
        maker = makers.get(name)
        parts = [name] if maker is None else list(maker.input) if maker.op_type == "DequantizeLinear" else []
        if uses[name] > 1 or not parts or any(part not in tensors for part in parts):
            return None
        if any(uses[part] > 1 and _count(tensors[part]) > 1 for part in parts):
            return None
        if len(parts) > 2 and numpy_helper.to_array(tensors[parts[2]]).any():
            return None
        stored.append(parts[0])
        steps += parts[1:]
    weight = tensors[stored[0]]
    group = next((item.i for item in node.attribute if item.name == "group"), 1)
    depthwise = group > 1 and weight.dims[0] == group and weight.dims[1] == 1
    if not (group == 1 or depthwise) or any(_count(tensors[name]) not in (1, weight.dims[0]) for name in steps):
        return None
    return Convolution(
        node=node,
        dims=tuple(weight.dims),
        depthwise=depthwise,
        is_fast=weight.data_type == TensorProto.INT8,
        stored=tuple(stored),
        steps=tuple(steps),
    )


def _find_spaces(graph: onnx.GraphProto, tensors: _Tensors, layers: Mapping[str, Convolution]) -> Spaces:
    """Which activations share their channels, and which of them somebody sees (rule 1)."""
    spaces = Spaces()
    spaces.show(value.name for value in (*graph.input, *graph.output))
    for node in graph.node:
        layer = layers.get(node.output[0])
        activations = [name for name in node.input if name and name not in tensors]
        if layer is not None and not layer.depthwise:
            continue
        if layer is not None or _is_channelwise(node, tensors):
            for name in activations[:1] if layer is not None else activations:
                spaces.join(name, node.output[0])
        elif _joins_channels(node, tensors):
            spaces.compose(node.output[0], activations)
        else:
            spaces.show((*activations, *node.output))
    return spaces


def _is_channelwise(node: onnx.NodeProto, tensors: _Tensors) -> bool:
    """Whether a channel of the output comes from that of the inputs; constants must be the same for every channel."""
    same = all(_count(tensors[name]) == 1 for name in node.input if name in tensors)
    return node.op_type in _CHANNELWISE and len(node.output) == 1 and same


def _joins_channels(node: onnx.NodeProto, tensors: _Tensors) -> bool:
    along = [item.i for item in node.attribute if item.name == "axis"]
    return node.op_type == "Concat" and along == [1] and not any(name in tensors for name in node.input)


def _count_missing(layers: Iterable[Convolution], spaces: Spaces, free: Set[str]) -> dict[str, int]:
    """Channels to add, by atom of the spaces; nothing to what is made of several."""
    return {
        atom: -layer.dims[0] % LANES
        for layer in layers
        if layer.depthwise and layer.is_fast
        for atom in (spaces.find(layer.node.output[0]),)
        if atom in free
    }


def _pad_layer(layer: Convolution, into: Layout, out: Layout, tensors: _Tensors) -> None:
    """Lay out anew what a layer reads and what it writes; weight and bias of new channels are zero."""
    for name in layer.stored if out else ():
        pad_tensor(tensors[name], 0, out)
    for name in layer.steps if out else ():  # repeated: a bias has its weight's scale times the input's
        if _count(tensors[name]) > 1:
            pad_tensor(tensors[name], 0, out, "edge")
    if into and not layer.depthwise:
        pad_tensor(tensors[layer.stored[0]], 1, into)
    for item in layer.node.attribute:
        if item.name == "group" and layer.depthwise and into:
            item.i = sum(kept + zeros for kept, zeros in into)


def pad_tensor(tensor: TensorProto, axis: int, layout: Layout, mode: Literal["constant", "edge"] = "constant") -> None:
    """Add zeros, or the last value before them again (``edge``), along an axis of a constant."""
    array: NDArray[np.generic] = np.moveaxis(numpy_helper.to_array(tensor), axis, 0)
    runs, start = [], 0
    for kept, added in layout:
        widths = [(0, added), *[(0, 0)] * (array.ndim - 1)]
        runs.append(np.pad(array[start : start + kept], widths, mode=mode))
        start += kept
    padded = np.ascontiguousarray(np.moveaxis(np.concatenate(runs), 0, axis))
    tensor.CopyFrom(numpy_helper.from_array(padded, tensor.name))


def _count(tensor: TensorProto) -> int:
    return int(np.prod(tensor.dims))
