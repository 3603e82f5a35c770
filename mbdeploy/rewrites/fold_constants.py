"""Compute at once what depends on constants and known sizes only: above all the Shape-Slice-Pad chains of exporters."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from mbdeploy.rewrites.borrowed import run_passes
from mbdeploy.rewrites.constants import add_constant

#: A folded constant may not have more elements than this, unless what it replaces was as large.
_MAX_ELEMENTS = 1 << 18


def fold_constants(model: ir.Model) -> list[str]:
    """Replace nodes by their value where every input is known; sizes are known even beside a dynamic batch.

    Rules: 1. onnxscript folds a Gather from a Shape when its index is a list, so a scalar index is
    made one, for as long as it takes. 2. It spares ConstantOfShape to keep files small; the chains
    need it, and ``_MAX_ELEMENTS`` keeps files small too.
    """
    return run_passes(model, passes=(_fold, common.RemoveUnusedNodesPass()), kinds=("node",))


def _fold(model: ir.Model) -> None:
    listed = [(node.inputs[1], *_make_index_a_list(node)) for node in list(model.graph) if _reads_one_size(node)]
    optimizer.fold_constants_ir(
        model, onnx_shape_inference=True, output_size_limit=_MAX_ELEMENTS, should_fold=_should_fold
    )
    for index, gather, squeeze in listed:
        if gather.graph is not None and squeeze.graph is not None:  # this size is not known: as it was (rule 1)
            _replace(squeeze, [gather], [ir.node("Gather", [gather.inputs[0], index], name=gather.name)])


def _should_fold(node: ir.Node) -> bool | None:
    if node.op_type != "ConstantOfShape":
        return None
    size = ir.convenience.get_const_tensor(node.inputs[0])
    return size is not None and int(np.prod(size.numpy())) <= _MAX_ELEMENTS  # rule 2


def _reads_one_size(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.attributes.get_int("axis", 0) != 0:
        return False
    source = node.inputs[0].producer()
    index = ir.convenience.get_const_tensor(node.inputs[1])
    return source is not None and source.op_type == "Shape" and index is not None and index.numpy().ndim == 0


def _make_index_a_list(node: ir.Node) -> tuple[ir.Node, ir.Node]:
    """Replace Gather(shape, i) by Squeeze(Gather(shape, [i])); returns the two new nodes."""
    index = ir.convenience.get_const_tensor(node.inputs[1]).numpy()
    many = add_constant(node.graph, f"{node.outputs[0].name}/index", index.reshape(1))
    axis = add_constant(node.graph, f"{node.outputs[0].name}/axis", np.zeros(1, np.int64))
    gather = ir.node("Gather", [node.inputs[0], many], attributes={"axis": 0}, name=node.name)
    squeeze = ir.node("Squeeze", [gather.outputs[0], axis], name=f"{node.name}/squeeze")
    _replace(node, [], [gather, squeeze])
    return gather, squeeze


def _replace(node: ir.Node, others: list[ir.Node], made: list[ir.Node]) -> None:
    graph = node.graph
    ir.convenience.replace_nodes_and_values(graph, node, [node, *others], made, node.outputs, made[-1].outputs)
