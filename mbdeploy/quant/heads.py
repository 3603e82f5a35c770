"""The heads of detectors: boxes and scores that one output joins, and that no scale of 8 bits suits both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import onnx

from mbdeploy.model_file import list_readers

#: Operators with weights: what comes before one of them is the network's body.
_LAYERS = frozenset("Conv ConvTranspose Gemm MatMul".split())
#: Operators that move numbers and change none.
_LAYOUT = frozenset("Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Concat Identity".split())
_PROBABILITIES = frozenset("Sigmoid Softmax HardSigmoid Exp".split())
_ARITHMETIC = frozenset("Add Sub Mul Div Pow".split())


def find_heads(model: onnx.ModelProto) -> set[str]:
    """The nodes, by name, that decode a detector's outputs: from the last layers on to the outputs.

    Rules: 1. a head ends in a Concat, with no layer behind it, that joins unlike things: probabilities, or what was
    computed with constants, such as boxes in pixels from grids and strides. At one scale scores of 0..1 would all be
    zero beside pixels of 0..640. 2. All nodes between the last layers and that Concat belong to it, and those behind
    it. Parts of a body that a Concat joins, at whatever place, are alike: convolutions have made them.
    """
    made = {name: node for node in model.graph.node for name in node.output}
    readers = list_readers(model.graph)
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {node.output[0] for node in model.graph.node if node.op_type == "Constant"}
    tail = _find_tail(model, readers)
    found: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type == "Concat" and node.name in tail and _joins_unlike(node, made, constants):
            behind = _walk([node], lambda one: [reader for name in one.output for reader in readers.get(name, [])])
            before = _walk([node], lambda one: [made[name] for name in one.input if name in made])
            found |= {one.name for one in behind} | {one.name for one in before if one.name in tail}
    return found


def _find_tail(model: onnx.ModelProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> set[str]:
    """The nodes, by name, that no layer follows."""
    tail: set[str] = set()
    for node in reversed(model.graph.node):  # in topological order, so that readers are known
        following = (reader for name in node.output for reader in readers.get(name, []))
        if node.op_type not in _LAYERS and all(reader.name in tail for reader in following):
            tail.add(node.name)
    return tail


def _joins_unlike(node: onnx.NodeProto, made: Mapping[str, onnx.NodeProto], constants: set[str]) -> bool:
    """Whether an input, its layout aside, is a probability or was computed with a constant."""
    seen, names = set(), list(node.input)
    while names:
        maker = made.get(names.pop())
        if maker is None or maker.name in seen:
            continue
        seen.add(maker.name)
        if maker.op_type in _PROBABILITIES:
            return True
        if maker.op_type in _ARITHMETIC and constants & set(maker.input):
            return True
        if maker.op_type in _LAYOUT:
            names += maker.input if maker.op_type == "Concat" else maker.input[:1]
    return False


def _walk(
    starts: Sequence[onnx.NodeProto], list_next: Callable[[onnx.NodeProto], Sequence[onnx.NodeProto]]
) -> list[onnx.NodeProto]:
    """These nodes and all that can be reached from them, without going through a layer; each once."""
    found = {node.name: node for node in starts}
    pending = list(starts)
    while pending:
        for node in list_next(pending.pop()):
            if node.name not in found and node.op_type not in _LAYERS:
                found[node.name] = node
                pending.append(node)
    return list(found.values())
