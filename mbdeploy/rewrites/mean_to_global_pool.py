"""The mean over height and width as GlobalAveragePool: ONNX Runtime quantizes that, and leaves ReduceMean in float."""

from __future__ import annotations

import onnx_ir as ir

_SPACE = {2, 3}


def mean_to_global_pool(model: ir.Model) -> list[str]:
    """Replace ReduceMean over the last two of four axes; without ``keepdims`` a Flatten follows.

    A mean over one of the two axes and then over the other (``x.mean(3).mean(2)``) is the same mean.
    """
    changed = []
    for node in list(model.graph):
        found = _match(node)
        if found is not None:
            _replace(node, *found)
            changed.append(node.name)
    return changed


def _match(node: ir.Node) -> tuple[ir.Value, bool] | None:
    """The image whose spatial mean this node computes, and whether the two axes are kept."""
    outer = _read_axes(node)
    if outer is None:
        return None
    source, axes = node.inputs[0], outer
    keeps = bool(node.attributes.get_int("keepdims", 1))
    before = source.producer()
    if len(axes) == 1 and before is not None:
        inner = _read_axes(before)
        if inner is None or bool(before.attributes.get_int("keepdims", 1)) != keeps:
            return None
        rank = len(before.inputs[0].shape)
        left = [axis for axis in range(rank) if keeps or axis not in inner]  # the axes as the outer one counts them
        source, axes = before.inputs[0], inner | {left[axis] for axis in outer}
    shape = source.shape
    if shape is None or len(shape) != 4 or axes != _SPACE or source.dtype != ir.DataType.FLOAT:
        return None
    return source, keeps


def _read_axes(node: ir.Node) -> set[int] | None:
    """The axes of a ReduceMean, counted from 0 (an attribute up to opset 17, then an input); else None."""
    if node.op_type != "ReduceMean" or node.domain or node.inputs[0].shape is None:
        return None
    if "axes" in node.attributes:
        axes = node.attributes["axes"].as_ints()
    elif len(node.inputs) > 1 and (constant := ir.convenience.get_const_tensor(node.inputs[1])) is not None:
        axes = constant.numpy().tolist()
    else:
        return None
    rank = len(node.inputs[0].shape)
    return {axis % rank for axis in axes}


def _replace(node: ir.Node, source: ir.Value, keeps: bool) -> None:
    pool = ir.node("GlobalAveragePool", [source], name=node.name)
    made = [pool]
    if not keeps:
        made.append(ir.node("Flatten", pool.outputs, attributes={"axis": 1}, name=f"{node.name}/flatten"))
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], made, node.outputs, made[-1].outputs)
