"""Execution order: nodes sorted so that each comes after what it reads."""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import onnx

from mbdeploy.errors import ModelError


def order_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes in an order in which each comes after what it reads; the file's own order wherever that is one.

    Raises:
        ModelError: nodes that read one another in a circle.
    """
    nodes = list(graph.node)
    makers = {tensor: index for index, node in enumerate(nodes) for tensor in node.output if tensor}
    readers: dict[int, list[int]] = {}
    waiting = [0] * len(nodes)
    for index, node in enumerate(nodes):
        for maker in {makers[tensor] for tensor in (*node.input, *outer_names(node)) if tensor in makers}:
            readers.setdefault(maker, []).append(index)
            waiting[index] += 1
    ready = [index for index, count in enumerate(waiting) if count == 0]
    ordered = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for reader in readers.get(index, ()):
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        stuck = next(nodes[index] for index, count in enumerate(waiting) if count > 0)
        raise ModelError(
            where=stuck.name or stuck.op_type,
            expected="nodes that can be put in order",
            found="nodes that read one another in a circle",
            todo="check how the file was made; no runtime can run it",
        )
    return ordered


def outer_names(node: onnx.NodeProto) -> set[str]:
    """Names that the bodies of a control-flow node read: those of tensors outside among them."""
    return {name for body in _bodies(node) for inner in body.node for name in (*inner.input, *outer_names(inner))}


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
