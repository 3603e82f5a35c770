"""Give the batch axis a size for a tool that needs one, and take it back out of what the tool made."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from mbdeploy.rewrites.constants import add_constant


def fix_batch(model: onnx.ModelProto, name: str, size: int) -> None:
    """Set axis 0 of the input ``name`` to ``size``, in place; sizes inferred for another batch are forgotten."""
    for value in model.graph.input:
        if value.name == name:
            value.type.tensor_type.shape.dim[0].dim_value = size
    del model.graph.value_info[:]


def free_batch(first: ir.Model, second: ir.Model, source: ir.Model) -> ir.Model:
    """Make the batch dynamic again in a graph that was made for two fixed batch sizes.

    The two graphs must be the same but for constants that follow the batch. Of these, the target of a
    Reshape gets -1 for the size that follows the batch, and the sizes of a Resize become scales.
    Everything else stays fixed to the batch, and is refused. Returns the first graph, mended, with
    the inputs and outputs of ``source``.

    Raises:
        ValueError: the two graphs differ in another way (the node is named).
    """
    for model in (first, second):
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.ShapeInferencePass(strict_mode=False, data_prop=True)(model)
    nodes = list(first.graph), list(second.graph)
    if len(nodes[0]) != len(nodes[1]):
        raise ValueError(f"{len(nodes[0])} and {len(nodes[1])} nodes")
    follows = {name for name, value in first.graph.initializers.items() if not _is_equal(value, second, name)}
    for one, other in zip(*nodes, strict=True):
        if _describe(one) != _describe(other):
            raise ValueError(f"unlike nodes {one.name!r} and {other.name!r}")
        tied = [value for value in one.inputs if value is not None and value.name in follows]
        if not tied:
            continue
        position, free = _MENDERS.get(one.op_type, (0, None))
        if free is None or tied != [one.inputs[position]]:
            raise ValueError(f"a constant that follows the batch in {one.op_type} {one.name!r}")
        free(one, other)
    declared = {value.name: value.shape for value in (*source.graph.inputs, *source.graph.outputs)}
    names = _name_sizes(first, second, declared)
    for one, other in zip(*nodes, strict=True):
        for mine, theirs in zip(one.outputs, other.outputs, strict=True):
            olds, news = _read_static(mine), _read_static(theirs)
            sizes = [old if old == new else names.get((old, new)) for old, new in zip(olds, news, strict=False)]
            mine.shape = ir.Shape(sizes) if sizes and len(olds) == len(news) else None
    for value in (*first.graph.inputs, *first.graph.outputs):
        if value.name not in declared:
            raise ValueError(f"a new input or output {value.name!r}")
    for value in first.graph.inputs:
        value.shape = declared[value.name]
    for value in first.graph.outputs:
        value.shape = merge_shapes(declared[value.name], value.shape)
    return first


def merge_shapes(declared: ir.Shape | None, inferred: ir.Shape | None) -> ir.Shape | None:
    """The ``declared`` shape, with what was ``inferred`` for the axes that it leaves open without a name."""
    if declared is None or inferred is None or len(declared) != len(inferred):
        return inferred if declared is None else declared
    is_open = [isinstance(size, ir.SymbolicDim) and size.value is None for size in declared]
    return ir.Shape(theirs if free else own for own, theirs, free in zip(declared, inferred, is_open, strict=True))


def _name_sizes(first: ir.Model, second: ir.Model, declared: dict[str, ir.Shape]) -> dict[tuple[int, int], str]:
    """What a size is called that is the one number in the first graph and the other in the second."""
    return {
        (old, new): size.value
        for mine, theirs in zip(first.graph.inputs, second.graph.inputs, strict=True)
        for old, new, size in zip(mine.shape, theirs.shape, declared.get(mine.name) or (), strict=False)
        if old != new and not isinstance(size, int)
    }


def _is_equal(value: ir.Value, model: ir.Model, name: str) -> bool:
    mine, other = value.const_value, model.graph.initializers.get(name)
    return other is not None and mine.shape == other.const_value.shape and mine.tobytes() == other.const_value.tobytes()


def _describe(node: ir.Node) -> tuple[object, ...]:
    return (
        node.op_identifier(),
        *(value.name if value is not None else None for value in (*node.inputs, *node.outputs)),
        *(
            ir.serde.serialize_attribute(attribute).SerializeToString(deterministic=True)
            for attribute in node.attributes.values()
        ),
    )


def _free_reshape(node: ir.Node, other: ir.Node) -> None:
    sizes, others = (_read_static(reshape.outputs[0]) for reshape in (node, other))
    moving = [axis for axis, pair in enumerate(zip(sizes, others, strict=False)) if pair[0] != pair[1]]
    if not sizes or len(sizes) != len(others) or len(moving) > 1:
        raise ValueError(f"sizes {sizes} and {others} of Reshape {node.name!r}")
    target = [-1 if axis in moving else size for axis, size in enumerate(sizes)]
    node.replace_input_with(1, add_constant(node.graph, f"{node.outputs[0].name}/shape", np.array(target, np.int64)))


def _free_resize(node: ir.Node, other: ir.Node) -> None:
    before, after = (_read_static(value) for value in (node.inputs[0], node.outputs[0]))
    scales = np.array([new / old for old, new in zip(before, after, strict=False)], np.float32)
    policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
    exact = len(before) == len(after) and after == tuple(np.floor(scales * before).astype(int)) and after
    if not exact or policy != "stretch" or "axes" in node.attributes or scales[0] != 1:
        raise ValueError(f"sizes {before} and {after} of Resize {node.name!r}")
    node.replace_input_with(2, add_constant(node.graph, f"{node.outputs[0].name}/scales", scales))
    node.resize_inputs(3)


def _read_static(value: ir.Value) -> tuple[int, ...]:
    """The sizes of a value, or none if one of them is not known."""
    sizes = () if value.shape is None else tuple(value.shape)
    return sizes if all(isinstance(size, int) for size in sizes) else ()


#: Operator → where its constant may follow the batch, and how it is made to do so for any batch.
_MENDERS = {"Reshape": (1, _free_reshape), "Resize": (3, _free_resize)}
