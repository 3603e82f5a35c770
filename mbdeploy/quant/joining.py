"""Sums and products that belong to what has no int8 kernel: parts of a GELU, of a norm, of an attention's divisor."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from mbdeploy.model_file import list_readers

_ARITHMETIC = frozenset(("Add", "Mul"))
#: What has weights is worth its conversions; a HardSigmoid may yet become bytes (``gates.py``).
_APART = frozenset(("Conv", "Gemm", "MatMul", "HardSigmoid"))


def find_joined(model: onnx.ModelProto, floats: Collection[str]) -> set[str]:
    """The nodes, by name, that had better stay in float because their neighbours do, given those without int8 kernels.

    Rules, until none finds more: 1. an Add or Mul that reads a float node's result, if each tensor it reads is made or
    read by a float node anyway, or constant. 2. An Add or Mul of a tensor and a constant that only float nodes read.
    3. Any operator without weights that reads float nodes' results only, and that only float nodes read. None of these
    adds a conversion. In return ONNX Runtime can fuse a GELU or a layer norm, and no divisor becomes zero: 8 bits hold
    a factor of 255, no more.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    makers = {name: node for node in graph.node for name in node.output}
    readers = list_readers(graph)
    outputs = {value.name for value in graph.output}
    joined = {node.name for node in graph.node if node.name in floats and node.op_type != "HardSigmoid"}
    seeds = set(joined)

    def is_made(name: str) -> bool:
        return name in makers and makers[name].name in joined

    def is_read(name: str) -> bool:
        return any(reader.name in joined for reader in readers.get(name, ()))

    def belongs(node: onnx.NodeProto) -> bool:
        tensors = [name for name in node.input if name not in constants]
        results = [reader.name in joined for name in node.output for reader in readers.get(name, ())]
        only_read_in_float = bool(results) and all(results) and not outputs & {*node.output}
        if node.op_type in _ARITHMETIC:
            if any(map(is_made, tensors)) and all(is_made(name) or is_read(name) for name in tensors):
                return True
            if len(tensors) == 1 and only_read_in_float:
                return True
        return only_read_in_float and bool(tensors) and all(map(is_made, tensors))

    candidates = [node for node in graph.node if node.name not in joined and node.op_type not in _APART]
    while found := [node for node in candidates if node.name not in joined and belongs(node)]:
        joined.update(node.name for node in found)
    return joined - seeds
