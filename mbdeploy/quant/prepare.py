"""Make a float model one that the quantizer can work on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping

import numpy as np
import onnx
import onnx.shape_inference
from onnx import numpy_helper

from mbdeploy.model_file import copy_model


def prepare_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that the quantizer can work on: named nodes, constants as initializers, no shared weight or bias.

    Two convolutions that share a bias (exporters merge equal ones) need two scales, so they get two biases;
    one without a bias gets zeros, which bias correction can move.
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
            node.name = _find_free(f"{node.op_type}_{position}", taken)
            taken[node.name] += 1
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
                copy.name = node.input[slot] = _find_free(f"{name}_{seen[name]}", tensors)
                initializers[copy.name] = copy
                tensors.add(copy.name)
        if node.op_type == "Gemm":
            _fold_factors(node, initializers)
            _spread_bias(node, initializers)
        if node.op_type == "Conv" and len(node.input) == 2 and node.input[1] in initializers:
            zeros = np.zeros(initializers[node.input[1]].dims[0], np.float32)
            node.input.append(_find_free(f"{node.name}_bias", tensors))
            graph.initializer.append(numpy_helper.from_array(zeros, node.input[2]))
            tensors.add(node.input[2])
    inferred: onnx.ModelProto = onnx.shape_inference.infer_shapes(prepared)
    return inferred


def _fold_factors(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> None:
    """Multiply a Gemm's alpha into its weight and its beta into its bias, where these are constants."""
    for factor, slot in (("alpha", 1), ("beta", 2)):
        value = next((item.f for item in node.attribute if item.name == factor), 1.0)
        tensor = initializers.get(node.input[slot]) if len(node.input) > slot else None
        if value == 1.0 or tensor is None:
            continue
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(value), tensor.name))
        node.attribute.remove(next(item for item in node.attribute if item.name == factor))


def _spread_bias(node: onnx.NodeProto, initializers: Mapping[str, onnx.TensorProto]) -> None:
    """Give every output of a Gemm a bias of its own where one value serves them all."""
    weight = initializers.get(node.input[1])
    bias = initializers.get(node.input[2]) if len(node.input) > 2 else None
    if weight is None or bias is None or int(np.prod(bias.dims)) != 1:
        return
    rows = next((item.i for item in node.attribute if item.name == "transB"), 0)
    spread = np.repeat(numpy_helper.to_array(bias).reshape(1), weight.dims[0 if rows else 1])
    bias.CopyFrom(numpy_helper.from_array(spread, bias.name))


def _find_free(name: str, taken: Container[str]) -> str:
    """The name, or the same with as many underscores as it takes to be a new one."""
    while name in taken:
        name += "_"
    return name
