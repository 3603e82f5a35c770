"""Depthwise-separable blocks, and the standard convolutions that they stand for; arXiv:1704.04861, section 3.1."""

from __future__ import annotations

import math
from collections.abc import Sequence

from mbdeploy.costs.counting import Counted
from mbdeploy.costs.graph import ACTIVATIONS, Graph, Node
from mbdeploy.costs.report import LayerCost, SeparableBlock, StandardNetwork, Total

_GATES = ("Sigmoid", "HardSigmoid")
_POOLS = ("GlobalAveragePool", "ReduceMean", "AveragePool")


def find_blocks(graph: Graph, counted: Counted) -> tuple[SeparableBlock, ...]:
    """Every depthwise convolution whose result goes only to a 1x1 convolution.

    Rules: 1. between the two may stand batch norm, an activation of any spelling (also x * sigmoid(x)), and
    squeeze-and-excite, which belongs to neither side of the comparison. 2. The depthwise convolution gives
    one output channel for each input channel; the 1x1 one does not stride.
    """
    costs = {node.outputs[0]: layer for node, layer in zip(counted.nodes, counted.layers, strict=True) if node.outputs}
    blocks = []
    for node, layer in zip(counted.nodes, counted.layers, strict=True):
        if layer.kind != "pointwise conv" or set(layer.strides) - {1}:
            continue
        source = _trace_back(graph, node)
        before = costs.get(source.outputs[0]) if source is not None else None
        if before is not None and before.kind == "depthwise conv" and before.inputs[0][1] == before.output[1]:  # 2.
            blocks.append(_compare(before, layer))
    return tuple(blocks)


def compare_network(total: Total, blocks: Sequence[SeparableBlock]) -> StandardNetwork:
    """The whole network with the standard convolution in place of every block, and what the real one saves."""
    macs = total.macs + sum(block.standard_macs - block.macs for block in blocks)
    weights = total.weights + sum(block.standard_weights - block.weights for block in blocks)
    return StandardNetwork(
        macs=macs,
        weights=weights,
        macs_ratio=total.macs / macs if macs else 1.0,
        weights_ratio=total.weights / weights if weights else 1.0,
    )


def ratio_formula(channels: int, kernel: Sequence[int]) -> float:
    """1/N + 1/D^2: what a separable block costs of a standard convolution with N output channels."""
    return 1 / channels + 1 / math.prod(kernel)


def _compare(depthwise: LayerCost, pointwise: LayerCost) -> SeparableBlock:
    kernel, cin, cout = depthwise.kernel, depthwise.output[1], pointwise.output[1]
    places = math.prod(depthwise.output) // cin
    macs = depthwise.macs + pointwise.macs
    standard_weights = math.prod(kernel) * cin * cout
    return SeparableBlock(
        depthwise=depthwise.name,
        pointwise=pointwise.name,
        kernel=kernel,
        channels=(cin, cout),
        macs=macs,
        standard_macs=standard_weights * places,
        weights=depthwise.weights + pointwise.weights,
        standard_weights=standard_weights,
        ratio=macs / (standard_weights * places),
        formula=ratio_formula(cout, kernel),
    )


def _trace_back(graph: Graph, node: Node) -> Node | None:
    """The convolution whose result, activated and gated, is this node's input, if nobody else uses it."""
    reader, tensor = node, node.inputs[0]
    while (maker := graph.producers.get(tensor)) is not None:
        if not _is_private(graph, tensor, reader):
            return None
        if maker.operator in (*ACTIVATIONS, "BatchNormalization"):
            reader, tensor = maker, maker.inputs[0]
        elif maker.operator == "Mul":
            reader, tensor = maker, _gated_input(graph, maker)
        else:
            return maker
    return None


def _gated_input(graph: Graph, node: Node) -> str:
    """Of a product's factors the one that is the map; the other is its gate or a constant. "" if neither is."""
    factors = graph.activations(node.inputs)
    if len(factors) == 1:
        return factors[0]
    for tensor, gate in (factors, factors[::-1]):
        maker = graph.producers.get(gate)
        if maker is None:
            continue
        is_swish = maker.operator in _GATES and maker.inputs[0] == tensor
        is_channel_gate = math.prod(graph.shapes.get(gate, (0,))[2:]) == 1 != math.prod(graph.shapes[tensor][2:])
        if is_swish or is_channel_gate:
            return tensor
    return ""


def _is_private(graph: Graph, tensor: str, reader: Node) -> bool:
    """Whether only ``reader`` uses the tensor, gates that start from it apart."""
    others = [node for node in graph.consumers.get(tensor, ()) if node is not reader]
    return tensor not in graph.outputs and all(node.operator in (*_GATES, *_POOLS) for node in others)
