"""What may be kept in float: single layers, and those that only make sense together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import onnx

from mbdeploy.mixing.report import Kind, Move
from mbdeploy.quant.layers import Layer

#: How many layers of either end are tried together, beside each alone.
_ENDS = (2, 3)


def find_moves(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[Move]:
    """Every move over the quantizable ``layers`` of a prepared model with inferred shapes; no two of the same layers.

    Rules: 1. each layer alone. 2. The first and the last two and three: conversions cost least at the ends. 3. What
    lies between two places where a single tensor carries all: a residual block. 4. All squeeze-and-excite branches.
    5. All depthwise layers.
    """
    names = [layer.node for layer in layers]
    found: list[Move] = [_make("layer", (name,), name) for name in names]
    for count in _ENDS:
        found.append(_make("first", names[:count], f"first {count} layers"))
        found.append(_make("last", names[-count:], f"last {count} layers"))
    found += [_make("block", block, f"{block[0]} .. {block[-1]}") for block in _find_blocks(model, set(names))]
    found.append(_make("squeeze", _find_squeezes(model, layers), "squeeze-and-excite"))
    found.append(_make("depthwise", [layer.node for layer in layers if layer.depthwise], "depthwise layers"))
    unique = {move.layers: move for move in reversed(found) if move.layers and len(move.layers) < len(names)}
    return [move for move in found if unique.get(move.layers) is move]


def _make(kind: Kind, layers: Sequence[str], name: str) -> Move:
    return Move(name=name, kind=kind, layers=tuple(layers))


def _find_blocks(model: onnx.ModelProto, layers: set[str]) -> list[list[str]]:
    """Layers between neighbouring places that only one activation crosses, where there are several."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer} | {""}
    last_read = {name: index for index, node in enumerate(graph.node) for name in node.input if name not in constants}
    last_read.update((value.name, len(graph.node)) for value in graph.output)
    live = {value.name for value in graph.input} - constants
    place, numbered = 0, []
    for index, node in enumerate(graph.node):
        if node.name in layers:
            numbered.append((place, node.name))
        live.update(name for name in node.output if name)
        live = {name for name in live if last_read.get(name, -1) > index}
        place += len(live) == 1
    groups = ([name for _, name in members] for _, members in groupby(numbered, key=lambda pair: pair[0]))
    return [group for group in groups if len(group) > 1]


def _find_squeezes(model: onnx.ModelProto, layers: Sequence[Layer]) -> list[str]:
    """Convolutions on pooled maps, but for those behind the last convolution on a real map: these are the head."""
    sizes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim[2:]]
        for value in model.graph.value_info
    }
    pooled = [sizes.get(layer.output) == [1, 1] for layer in layers]
    behind = max(
        (index for index, flat in enumerate(pooled) if not flat and layers[index].operator == "Conv"), default=0
    )
    return [layer.node for layer, flat in list(zip(layers, pooled, strict=True))[:behind] if flat]
