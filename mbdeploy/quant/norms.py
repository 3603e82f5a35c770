"""Batch norms that no convolution can take in, as int8 can do them: depthwise convolutions of a single position."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbdeploy.model_file import list_readers
from mbdeploy.quant.names import find_free
from mbdeploy.quant.qdq import QUANTIZED_OPERATORS

#: Operators of int8, and those that become one: a norm before or behind, the gate of an h-swish.
_NEIGHBOURS = frozenset((*QUANTIZED_OPERATORS, "BatchNormalization", "HardSigmoid"))


def find_norms(model: onnx.ModelProto, ranks: Mapping[str, int]) -> list[onnx.NodeProto]:
    """Every BatchNormalization between operators of int8, given how many axes tensors have.

    Rules: 1. What it reads has a channel axis and one more at least, and is made by an operator of int8. 2. All that
    reads the result is such an operator. 3. Its constants are float32.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    made = {name for node in graph.node if node.op_type in _NEIGHBOURS for name in node.output}
    readers = list_readers(graph)
    outputs = {value.name for value in graph.output}
    return [
        node
        for node in graph.node
        if node.op_type == "BatchNormalization"
        and node.input[0] in made
        and ranks.get(node.input[0], 0) > 2
        and {*node.input[1:]} <= constants
        and node.output[0] not in outputs
        and {reader.op_type for reader in readers.get(node.output[0], ())} <= _NEIGHBOURS
        and not any(item.name == "training_mode" and item.i for item in node.attribute)
    ]


def turn_norms(model: onnx.ModelProto) -> None:
    """Write these as the Convs that they are, in place, where weights and biases come out finite.

    DenseNet and ResNet v2 normalise before they convolve, so what they normalise is a Concat or an Add. Such a norm
    would be an island of float between two conversions; the Conv has an int8 kernel, which its ReLU merges into. Where
    it stays in float it takes the same time as the norm.
    """
    graph = model.graph
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in graph.value_info}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    taken = {*constants, *(name for node in graph.node for name in (*node.input, *node.output))}
    for node in find_norms(model, ranks):
        scale, offset = _read(node, constants)
        arrays = {"weight": scale.reshape(-1, *(1,) * (ranks[node.input[0]] - 1)), "bias": offset}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            continue
        names = [find_free(f"{node.name}_{role}", taken) for role in arrays]
        taken.update(names)
        graph.initializer.extend(map(numpy_helper.from_array, arrays.values(), names))
        node.CopyFrom(helper.make_node("Conv", [node.input[0], *names], node.output[:1], node.name, group=len(scale)))


def _read(
    node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The factor and the offset of each channel."""
    arrays = (numpy_helper.to_array(constants[name]).astype(np.float64) for name in node.input[1:])
    gamma, beta, mean, variance = arrays
    epsilon = next((item.f for item in node.attribute if item.name == "epsilon"), 1e-5)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + epsilon)
        return scale.astype(np.float32), (beta - mean * scale).astype(np.float32)
