"""Make a float model one that the quantizer can work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbdeploy.model_file import copy_model
from mbdeploy.quant.gates import read_slope
from mbdeploy.quant.gelu import fuse_gelus
from mbdeploy.quant.multipliers import spread_channels
from mbdeploy.quant.names import find_free
from mbdeploy.quant.norms import turn_norms


def prepare_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that the quantizer can work on: named nodes, constants as initializers, no HardSwish, nothing shared.

    Two convolutions that share a bias (exporters merge equal ones) need two scales, so they get two biases;
    one without a bias gets zeros, which bias correction can move. Norms between int8 become convolutions.
    """
    prepared = copy_model(model)
    graph = prepared.graph
    constants = [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]
    for node in constants:
        tensor = graph.initializer.add()
        tensor.CopyFrom(node.attribute[0].t)
        tensor.name = node.output[0]
        graph.node.remove(node)
    taken: Counter[str] = Counter(node.name for node in graph.node)
    for position, node in enumerate(graph.node):
        if not node.name or taken[node.name] > 1:
            node.name = find_free(f"{node.op_type}_{position}", taken)
            taken[node.name] += 1
    expand_hard_swish(prepared)
    fuse_gelus(prepared)
    split_padded_pools(prepared)
    spread_channels(prepared)
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    weighted = [node for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    others = (node for node in graph.node if node.op_type not in ("Conv", "Gemm", "MatMul"))
    seen: Counter[str] = Counter(name for node in others for name in node.input)  # theirs must stay as they are
    tensors = {*initializers, *(value.name for value in graph.input)}
    tensors.update(name for node in graph.node for name in node.output)
    for node in weighted:
        for slot in (1, 2):
            name = node.input[slot] if len(node.input) > slot else ""
            if name not in initializers:
                continue
            seen[name] += 1
            if seen[name] > 1:
                copy = graph.initializer.add()
                copy.CopyFrom(initializers[name])
                copy.name = node.input[slot] = find_free(f"{name}_{seen[name]}", tensors)
                initializers[copy.name] = copy
                tensors.add(copy.name)
        if node.op_type == "Gemm":
            _fold_factors(node, initializers)
            _spread_bias(node, initializers)
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in initializers:
            zeros = np.zeros(initializers[node.input[1]].dims[0], np.float32)
            node.input.append(find_free(f"{node.name}_bias", tensors))
            graph.initializer.append(numpy_helper.from_array(zeros, node.input[2]))
            tensors.add(node.input[2])
    _absorb_hard_sigmoids(prepared, tensors)
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(prepared)
    turn_norms(inferred)
    return inferred


def expand_hard_swish(model: onnx.ModelProto) -> dict[str, str]:
    """Write every HardSwish as what the specification defines it to be, x HardSigmoid(x; 1/6, 1/2), in place.

    Returns, by the name of each new HardSigmoid, that of the HardSwish; the Mul keeps its name and output.
    """
    names = {node.name for node in model.graph.node}
    tensors = {name for node in model.graph.node for name in (*node.input, *node.output)}
    nodes, expanded = [], {}
    for node in model.graph.node:
        if node.op_type != "HardSwish":
            nodes.append(node)
            continue
        name, made = find_free(f"{node.name}_gate", names), find_free(f"{node.output[0]}_gate", tensors)
        nodes.append(helper.make_node("HardSigmoid", node.input, [made], name, alpha=1 / 6, beta=0.5))
        nodes.append(helper.make_node("Mul", [node.input[0], made], node.output, node.name))
        expanded[name] = node.name
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return expanded


def find_absorbable(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    """Every HardSigmoid that alone reads a Conv or Gemm of constant float32 weights, with that layer."""
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    layers = (node for node in model.graph.node if node.op_type in ("Conv", "Gemm") and {*node.input[1:]} <= floats)
    makers = {node.output[0]: node for node in layers}
    uses = Counter(name for node in model.graph.node for name in node.input)
    uses.update(value.name for value in model.graph.output)
    gates = (node for node in model.graph.node if node.op_type == "HardSigmoid" and uses[node.input[0]] == 1)
    return [(gate, makers[gate.input[0]]) for gate in gates if gate.input[0] in makers]


def _absorb_hard_sigmoids(model: onnx.ModelProto, taken: set[str]) -> None:
    """Put the slope and shift of a HardSigmoid into the layer that only it reads; a Clip from 0 to 1 is left.

    That merges into the layer's scale, as a ReLU6 does, and keeps all 8 bits for what comes between 0 and 1.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node, layer in find_absorbable(model):
        if len(layer.input) < 3:
            continue
        slope, shift = read_slope(node)
        weight, bias = (tensors[name] for name in layer.input[1:])
        _change(weight, numpy_helper.to_array(weight) * slope)
        _change(bias, numpy_helper.to_array(bias) * slope + shift)
        bounds = [find_free(f"{node.name}_{end}", taken) for end in (0, 1)]
        model.graph.initializer.extend(numpy_helper.from_array(np.float32(end), bounds[end]) for end in (0, 1))
        taken.update(bounds)
        node.CopyFrom(helper.make_node("Clip", [node.input[0], *bounds], node.output, node.name))


def _change(tensor: onnx.TensorProto, values: NDArray[np.floating]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def split_padded_pools(model: onnx.ModelProto) -> None:
    """Write every AveragePool that counts its padding as a Pad and an AveragePool without.

    The padding is zero in real units, so in bytes it must be the zero point. OpenVINO 2026.4 pads int8 pools with the
    byte 0 instead; a Pad of its own it gets right.
    """
    taken = {name for node in model.graph.node for name in (node.name, *node.output)}
    taken.update(tensor.name for tensor in model.graph.initializer)
    for place, node in reversed(list(enumerate(model.graph.node))):
        attributes = {item.name: item for item in node.attribute}
        pads = list(attributes["pads"].ints) if "pads" in attributes else []
        counted = "count_include_pad" in attributes and attributes["count_include_pad"].i
        if node.op_type != "AveragePool" or not counted or not any(pads):
            continue
        if "ceil_mode" in attributes and attributes["ceil_mode"].i:
            continue  # what the last window would count beyond the padding is not padding
        padded, by = find_free(f"{node.input[0]}_padded", taken), find_free(f"{node.name}_pads", taken)
        taken.update((padded, by))
        half = len(pads) // 2
        widths = np.array([0, 0, *pads[:half], 0, 0, *pads[half:]], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(widths, by))
        pad = helper.make_node("Pad", [node.input[0], by], [padded], padded)
        node.input[0] = padded
        for name in ("pads", "count_include_pad"):
            node.attribute.remove(attributes[name])
        model.graph.node.insert(place, pad)


def _fold_factors(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> None:
    """Multiply a Gemm's alpha into its weight and its beta into its bias, where these are constants."""
    for factor, slot in (("alpha", 1), ("beta", 2)):
        value = next((item.f for item in node.attribute if item.name == factor), 1.0)
        tensor = initializers.get(node.input[slot]) if len(node.input) > slot else None
        if value == 1.0 or tensor is None:
            continue
        _change(tensor, numpy_helper.to_array(tensor) * np.float32(value))
        node.attribute.remove(next(item for item in node.attribute if item.name == factor))


def _spread_bias(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> None:
    """Give every output of a Gemm a bias of its own where one value serves them all."""
    weight = initializers.get(node.input[1])
    bias = initializers.get(node.input[2]) if len(node.input) > 2 else None
    if weight is None or bias is None or int(np.prod(bias.dims)) != 1:
        return
    rows = next((item.i for item in node.attribute if item.name == "transB"), 0)
    spread = np.repeat(numpy_helper.to_array(bias).reshape(1), weight.dims[0 if rows else 1])
    _change(bias, spread)
