"""Cut a graph after each of its layers, so that it can be run piece by piece with what is settled so far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

Tensor = NDArray[np.generic]


class Segment(msgspec.Struct, frozen=True):
    """Nodes that can run as soon as one more layer is settled: what they read, and what later nodes read of them.

    ``nodes`` are positions in the graph, in its order. ``inputs`` and ``outputs`` are activations; where a
    DequantizeLinear stands between two segments they name its 8-bit input, which is a quarter of the size.
    """

    nodes: tuple[int, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def cut_at_layers(model: onnx.ModelProto, layers: Sequence[str]) -> list[Segment]:
    """One segment before the first of ``layers`` (names of nodes, in graph order), and one that begins with each.

    Segment k holds the nodes that need layers 0 to k-1 and no later one. A DequantizeLinear belongs to every
    segment that reads it. The graph must be sorted topologically.
    """
    graph = model.graph
    number = {name: position + 1 for position, name in enumerate(layers)}
    constants = {tensor.name for tensor in graph.initializer} | {""}
    dequantized = {node.output[0]: index for index, node in enumerate(graph.node) if _is_dequantize(node)}
    stages = dict.fromkeys((value.name for value in graph.input), 0)
    members: list[list[int]] = [[] for _ in range(len(layers) + 1)]
    reads: list[dict[str, None]] = [{} for _ in members]
    made: list[dict[str, None]] = [{} for _ in members]
    for index, node in enumerate(graph.node):
        sources = [_find_source(graph, dequantized, name) for name in node.input]
        used = [name for name in sources if name not in constants]
        stage = max((stages[name] for name in used), default=0)
        if _is_dequantize(node):
            stages[node.output[0]] = stage
            continue
        stage = max(stage, number.get(node.name, 0))
        stages.update(dict.fromkeys(node.output, stage))
        members[stage] += [*(dequantized[name] for name in node.input if name in dequantized), index]
        reads[stage].update(dict.fromkeys(used))
        made[stage].update(dict.fromkeys(node.output))
    segments = []
    for stage, nodes in enumerate(members):
        later = {name for names in reads[stage + 1 :] for name in names}
        segments.append(
            Segment(
                nodes=tuple(sorted(set(nodes))),
                inputs=tuple(name for name in reads[stage] if name not in made[stage]),
                outputs=tuple(name for name in made[stage] if name in later),
            )
        )
    return segments


def build_segment(model: onnx.ModelProto, segment: Segment, inputs: Mapping[str, Tensor]) -> onnx.ModelProto:
    """The segment as a model of its own, for inputs of the types and shapes given."""
    graph = model.graph
    nodes = [graph.node[index] for index in segment.nodes]
    used = {name for node in nodes for name in node.input}
    built = helper.make_graph(
        nodes,
        "segment",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in inputs.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in segment.outputs],  # ONNX Runtime infers their types
        [tensor for tensor in graph.initializer if tensor.name in used],
    )
    return helper.make_model(built, opset_imports=model.opset_import, ir_version=model.ir_version)


def _is_dequantize(node: onnx.NodeProto) -> bool:
    return bool(node.op_type == "DequantizeLinear")


def _find_source(graph: onnx.GraphProto, dequantized: Mapping[str, int], name: str) -> str:
    """The tensor itself, or the 8-bit one that it is dequantized from."""
    return str(graph.node[dequantized[name]].input[0]) if name in dequantized else name
