"""Every executed node with its costs, their sums by kind, and the nodes that nobody can count."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from mbdeploy.costs.counters import COUNTERS, Count, UnknownShapeError
from mbdeploy.costs.graph import Graph, Node, is_fused
from mbdeploy.costs.memory import Liveness
from mbdeploy.costs.report import KINDS, LayerCost, Total, Uncounted

#: A bias is int32 in every int8 kernel.
_BIAS_BYTES = 4


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """All executed nodes: those counted, with their node and what the rule said, and the others."""

    layers: tuple[LayerCost, ...]
    nodes: tuple[Node, ...]
    counts: tuple[Count, ...]
    uncounted: tuple[Uncounted, ...]


def count_layers(graph: Graph, liveness: Liveness) -> Counted:
    """Count every executed node by its rule in ``COUNTERS``; a node without a rule or a shape is uncounted."""
    layers, nodes, counts, uncounted = [], [], [], []
    for index, node in enumerate(graph.nodes):
        reason = graph.problems.get(node.name, "")
        if node.operator not in COUNTERS:
            reason = "control flow: its body is not counted" if node.operator in _CONTROL else "no rule counts it"
        if not reason:
            try:
                count = COUNTERS[node.operator](graph, node)
                layers.append(_describe_layer(graph, node, count, liveness, index))
            except UnknownShapeError as error:
                reason = f"the shape of {error.args[0]!r} is unknown"
            else:
                nodes.append(node)
                counts.append(count)
                continue
        uncounted.append(Uncounted(name=node.name, operator=node.operator, reason=reason))
    return Counted(layers=tuple(layers), nodes=tuple(nodes), counts=tuple(counts), uncounted=tuple(uncounted))


def sum_layers(graph: Graph, counted: Counted, kind: str = "all") -> Total:
    """The layers of a kind, or of all, added up.

    Rules: 1. a weight that several layers multiply counts once. 2. Biases count for every layer, because
    exporters merge equal ones.
    """
    chosen = [
        (layer, count)
        for layer, count in zip(counted.layers, counted.counts, strict=True)
        if kind in ("all", layer.kind)
    ]
    seen: dict[str, int] = {}
    others = 0
    for layer, count in chosen:
        if count.weight:
            seen[graph.constants[count.weight]] = layer.weights  # 1.
        others += layer.parameters - layer.weights  # 2.
    weights = sum(seen.values())
    return Total(
        kind=kind,
        layers=len(chosen),
        macs=sum(layer.macs for layer, _ in chosen),
        weights=weights,
        parameters=weights + others,
        bytes_fp32=sum(layer.bytes_fp32 for layer, _ in chosen),
        bytes_int8=sum(layer.bytes_int8 for layer, _ in chosen),
    )


def sum_kinds(graph: Graph, counted: Counted) -> tuple[Total, ...]:
    """One Total for each kind that occurs, in the order of ``KINDS``."""
    totals = (sum_layers(graph, counted, kind) for kind in KINDS)
    return tuple(total for total in totals if total.layers)


def _describe_layer(graph: Graph, node: Node, count: Count, liveness: Liveness, index: int) -> LayerCost:
    for tensor in (*graph.activations(node.inputs), *node.outputs):
        if tensor not in graph.shapes:
            raise UnknownShapeError(tensor)
    fused = is_fused(graph, node)
    weights = _elements(graph, (count.weight,)) if count.weight else 0
    others = _elements(graph, count.others)
    is_free = fused or count.is_view
    return LayerCost(
        name=node.name,
        operator=node.operator,
        kind=count.kind,
        inputs=tuple(graph.shapes[tensor] for tensor in graph.activations(node.inputs)),
        output=graph.shapes[node.outputs[0]] if node.outputs else (),
        kernel=count.kernel,
        strides=count.strides,
        groups=count.groups,
        macs=count.macs,
        weights=weights,
        parameters=weights + others,
        bytes_fp32=0 if is_free else _move_bytes(graph, node, count, 4) + 4 * (weights + others),
        bytes_int8=0 if is_free else _move_bytes(graph, node, count, 1) + weights + _BIAS_BYTES * others,
        live_fp32_bytes=liveness.fp32[index],
        live_int8_bytes=liveness.int8[index],
        fused=fused,
    )


def _move_bytes(graph: Graph, node: Node, count: Count, float_bytes: int) -> int:
    written = sum(graph.bytes_of(tensor, float_bytes=float_bytes) for tensor in node.outputs)
    if count.read is not None:
        return 2 * written
    return written + sum(graph.bytes_of(name, float_bytes=float_bytes) for name in graph.activations(node.inputs))


def _elements(graph: Graph, tensors: Sequence[str]) -> int:
    for tensor in tensors:
        if tensor not in graph.shapes:
            raise UnknownShapeError(tensor)
    return sum(math.prod(graph.shapes[tensor]) for tensor in tensors)


_CONTROL = ("If", "Loop", "Scan")
