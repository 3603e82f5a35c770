"""Clip(x + 3, 0, 6) / 6, as exporters write it, as HardSigmoid, which int8 can do; a Div it cannot."""

from __future__ import annotations

import math

import msgspec
import onnx_ir as ir

from mbdeploy.rewrites.reading import is_read_once, read_number, read_only_reader

_CLOSE = 1e-5


class _Ramp(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A Clip from 0 to ``top`` of ``slope`` times ``source``, plus half of ``top``."""

    source: ir.Value
    slope: float
    top: float


def hard_sigmoid(model: ir.Model) -> list[str]:
    """Replace a Clip of x + c/2 from 0 to c, multiplied by 1/c or divided by c, by HardSigmoid(x; 1/c, 1/2).

    Rules: 1. the factor may stand on the Clip's result, on the result's product with another tensor
    (``x * relu6(x + 3) / 6``) or on that tensor (``x / 6 * relu6(x + 3)``); where c is 1 it stands on x. 2. Nothing
    else reads what lies between. 3. Constants are single numbers, tensors float32.
    """
    changed = []
    for node in list(model.graph):
        ramp = _read_ramp(node)
        found = None if ramp is None else _find_end(node.outputs[0], ramp.top)
        if ramp is not None and found is not None:
            _replace(*found, ramp)
            changed.append(found[0].name or "")
    return changed


def _read_ramp(node: ir.Node) -> _Ramp | None:
    if node.op_type != "Clip" or node.domain or len(node.inputs) != 3 or node.inputs[0].dtype != ir.DataType.FLOAT:
        return None
    shift = _read_affine(node.inputs[0].producer(), "Add", "Sub")
    low, top = (read_number(value) for value in node.inputs[1:])
    if shift is None or low != 0 or not top or shift[1] != top / 2 or not is_read_once(node.inputs[0]):
        return None
    factor = _read_affine(shift[0].producer(), "Mul", "Div") if top == 1 else None
    if factor is None or factor[1] <= 0 or not is_read_once(shift[0]):
        return _Ramp(source=shift[0], slope=1.0, top=top)
    return _Ramp(source=factor[0], slope=factor[1], top=top)


def _find_end(clipped: ir.Value, top: float) -> tuple[ir.Node, ir.Value | None] | None:
    """The last node of what becomes a HardSigmoid, and the tensor that it is multiplied with, if any (rule 1)."""
    if top == 1:
        return clipped.producer(), None
    first = read_only_reader(clipped)
    if first is None or _is_inverse(first, clipped, top):
        return first and (first, None)
    other = next((value for value in first.inputs if value is not clipped), None)
    if first.op_type != "Mul" or first.domain or other is None:
        return None
    last = read_only_reader(first.outputs[0])
    if last is not None and _is_inverse(last, first.outputs[0], top):
        return last, other
    factor = _read_affine(other.producer(), "Mul", "Div")
    if factor is not None and is_read_once(other) and _is_inverse(other.producer(), factor[0], top):
        return first, factor[0]
    return None


def _replace(end: ir.Node, factor: ir.Value | None, ramp: _Ramp) -> None:
    attributes = {"alpha": ramp.slope / ramp.top, "beta": 0.5}
    name = end.name if factor is None else f"{end.name}/gate"
    made = [ir.node("HardSigmoid", [ramp.source], attributes=attributes, name=name)]
    if factor is not None:
        made.append(ir.node("Mul", [factor, made[0].outputs[0]], name=end.name))
    ir.convenience.replace_nodes_and_values(end.graph, end, [end], made, end.outputs, made[-1].outputs)


def _is_inverse(node: ir.Node | None, value: ir.Value, top: float) -> bool:
    """Whether a node multiplies ``value`` by 1/top."""
    found = _read_affine(node, "Mul", "Div")
    return found is not None and found[0] is value and math.isclose(found[1] * top, 1, rel_tol=_CLOSE)


def _read_affine(node: ir.Node | None, plain: str, inverse: str) -> tuple[ir.Value, float] | None:
    """The tensor and the number of an Add (Sub) or Mul (Div); of an ``inverse`` one the negative or reciprocal."""
    if node is None or node.domain or node.op_type not in (plain, inverse):
        return None
    for place in (0, 1) if node.op_type == plain else (0,):
        source = node.inputs[place]
        number = read_number(node.inputs[1 - place], rank=len(source.shape or ()))
        if number is None:
            continue
        if node.op_type == plain:
            return source, number
        if inverse == "Sub":
            return source, -number
        return (source, 1 / number) if number else None
    return None
