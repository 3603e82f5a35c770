"""GELU, x (1 + erf(x / sqrt(2))) / 2, in the one order of its products that ONNX Runtime recognises and fuses."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from mbdeploy.rewrites.constants import add_constant
from mbdeploy.rewrites.reading import is_read_once, read_number, read_only_reader

_CLOSE = 1e-5


def gelu(model: ir.Model) -> list[str]:
    """Write x * (0.5 * (1 + erf(x / sqrt(2)))) as (x * (1 + erf(x / sqrt(2)))) * 0.5, in which GELU has a kernel.

    torch.export writes the former below opset 20, and ONNX Runtime 1.31 then runs five nodes. Rules: 1. nothing else
    reads what lies between. 2. Constants are single numbers, tensors float32. 3. A product with 1 / sqrt(2) is such a
    quotient, and becomes one.
    """
    erfs = [node for node in model.graph if node.op_type == "Erf" and node.inputs[0].dtype == ir.DataType.FLOAT]
    found = [(node, _read(node)) for node in erfs]
    return [_replace(erf, *parts) for erf, parts in found if parts is not None]


def _read(erf: ir.Node) -> tuple[ir.Value, ir.Node, ir.Node, ir.Node] | None:
    """x, and the nodes that add 1, halve, and multiply by x."""
    scaled = erf.inputs[0].producer() if erf.inputs[0] is not None and is_read_once(erf.inputs[0]) else None
    source = None if scaled is None else _read_scaled(scaled)
    one = _find_reader(erf, "Add")
    half = None if one is None else _find_reader(one, "Mul")
    last = None if half is None else _find_reader(half, "Mul")
    if source is None or one is None or half is None or last is None or _other(last, half) is not source:
        return None
    rank = len(source.shape or ())
    fits = read_number(_other(one, erf), rank) == 1 and read_number(_other(half, one), rank) == 0.5
    return (source, one, half, last) if fits else None


def _read_scaled(node: ir.Node) -> ir.Value | None:
    """x, if this node is x / sqrt(2)."""
    root = math.sqrt(2)
    wanted = {"Div": root, "Mul": 1 / root}.get(node.op_type)
    if wanted is None or node.domain:
        return None
    for place in (1,) if node.op_type == "Div" else (0, 1):
        source = node.inputs[1 - place]
        number = read_number(node.inputs[place], rank=len(source.shape or ()))
        if number is not None and math.isclose(number, wanted, rel_tol=_CLOSE):
            return source
    return None


def _replace(erf: ir.Node, source: ir.Value, one: ir.Node, half: ir.Node, last: ir.Node) -> str:
    scaled, result = erf.inputs[0].producer(), last.outputs[0]
    root, factor = (
        add_constant(last.graph, f"{result.name}/{name}", np.array(number, np.float32))
        for name, number in (("root", math.sqrt(2)), ("half", 0.5))
    )
    quotient = ir.node("Div", [source, root], name=scaled.name)
    inner = ir.node("Erf", quotient.outputs, name=erf.name)
    added = ir.node("Add", [*inner.outputs, _other(one, erf)], name=one.name)
    product = ir.node("Mul", [source, *added.outputs], name=half.name)
    halved = ir.node("Mul", [*product.outputs, factor], name=last.name)
    made, gone = [quotient, inner, added, product, halved], [last, half, one, erf, scaled]
    ir.convenience.replace_nodes_and_values(last.graph, last, gone, made, [result], halved.outputs)
    return last.name or ""


def _other(node: ir.Node, before: ir.Node) -> ir.Value:
    """What a node reads beside the result of the one before it."""
    return node.inputs[1] if node.inputs[0] is before.outputs[0] else node.inputs[0]


def _find_reader(node: ir.Node, operator: str) -> ir.Node | None:
    """The one node that reads a result, if it is this operator."""
    reader = read_only_reader(node.outputs[0])
    return reader if reader is not None and reader.op_type == operator and not reader.domain else None
