"""Fold a constant scale or offset after a Conv into the Conv's weight and bias."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mbdeploy.rewrites.constants import add_constant
from mbdeploy.rewrites.reading import is_read_once

#: Operator → (weight factor, bias offset) of the constant c, for results ``conv op c``.
_AS_SCALE = {"Mul": lambda c: c, "Div": lambda c: 1 / c}
_AS_OFFSET = {"Add": lambda c: c, "Sub": lambda c: -c}
#: Of the operators above, those for which ``c op conv`` is the same.
_COMMUTES = frozenset({"Mul", "Add"})


def affine_into_conv(model: ir.Model) -> list[str]:
    """Fold Mul, Div, Add and Sub by a constant, one number or one per channel, into the Conv before them.

    Rules: 1. the Conv's result has no other use. 2. The constant is the same at every position and
    does not enlarge the result. 3. Weights are replaced, not changed: another layer may share them.
    """
    changed = []
    for node in list(model.graph):
        if node.op_type in _AS_SCALE or node.op_type in _AS_OFFSET:
            found = _match(node)
            if found is not None and _fold(node, *found):
                changed.append(node.name)
    return changed


def _match(node: ir.Node) -> tuple[ir.Node, NDArray[np.float64]] | None:
    """The Conv before this node and the constant, one number per channel of the Conv's output."""
    sides = [(0, 1), (1, 0)] if node.op_type in _COMMUTES else [(0, 1)]
    for value, other in sides:
        conv = node.inputs[value].producer()
        if conv is None or conv.op_type != "Conv" or conv.domain:
            continue
        result = conv.outputs[0]
        constants = [ir.convenience.get_const_tensor(side) for side in (*conv.inputs[1:], node.inputs[other])]
        if None in constants or not is_read_once(result):
            continue  # rule 1
        weight, constant = constants[0].numpy(), constants[-1].numpy()
        shape = (1,) * (weight.ndim - constant.ndim) + constant.shape
        if weight.dtype == np.float32 and shape in {(1,) * weight.ndim, (1, len(weight), *(1,) * (weight.ndim - 2))}:
            return conv, np.broadcast_to(constant.astype(np.float64).reshape(-1), len(weight))  # rule 2
    return None


def _fold(node: ir.Node, conv: ir.Node, constant: NDArray[np.float64]) -> bool:
    weight = conv.inputs[1].const_value.numpy().astype(np.float64)
    has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
    bias = conv.inputs[2].const_value.numpy().astype(np.float64) if has_bias else np.zeros(len(weight))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if node.op_type in _AS_SCALE:
            scale = _AS_SCALE[node.op_type](constant)
            weight, bias = weight * scale.reshape(-1, *(1,) * (weight.ndim - 1)), bias * scale
        else:
            bias = bias + _AS_OFFSET[node.op_type](constant)
        arrays = {"weight": weight.astype(np.float32), "bias": bias.astype(np.float32)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return False
    output = node.outputs[0]
    values = [add_constant(node.graph, f"{output.name}/{role}", array) for role, array in arrays.items()]  # rule 3
    folded = ir.node("Conv", [conv.inputs[0], *values], attributes=conv.attributes, name=conv.name)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node, conv], [folded], [output], folded.outputs)
    return True
