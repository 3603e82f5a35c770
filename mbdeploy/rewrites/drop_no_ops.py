"""Take away nodes that hand on their input as it is: Identity, and what turns out to be one."""

from __future__ import annotations

import onnx_ir as ir
from onnxscript.rewriter.rules import common as rules

from mbdeploy.rewrites.borrowed import run_rules

#: Operators that never reorder numbers: same shape out as in means that nothing happens.
_KEEP_ORDER = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
_BECOME_IDENTITY = (
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
)


def drop_no_ops(model: ir.Model) -> list[str]:
    """Bypass Identity, Dropout at inference, casts to the same type, reshapes to the same shape, x·1 and x + 0.

    Rules: 1. the graph's inputs and outputs keep their names, so a node between an input and an
    output stays, and so does one between two outputs. 2. A Dropout whose mask is used stays.
    """
    changed = run_rules(model, rules=_BECOME_IDENTITY)
    for node in list(model.graph):
        if _hands_on(node) and _bypass(node) and node.name not in changed:
            changed.append(node.name)
    return changed


def _hands_on(node: ir.Node) -> bool:
    if node.op_type == "Identity":
        return True
    if node.op_type == "Dropout":
        trains = node.inputs[2] if len(node.inputs) > 2 else None
        flag = None if trains is None else ir.convenience.get_const_tensor(trains)
        unused = all(not mask.uses() and not mask.is_graph_output() for mask in node.outputs[1:])  # rule 2
        return unused and (trains is None or (flag is not None and not flag.numpy().any()))
    return node.op_type in _KEEP_ORDER and _is_same_shape(node.inputs[0].shape, node.outputs[0].shape)


def _is_same_shape(before: ir.Shape | None, after: ir.Shape | None) -> bool:
    """Whether all sizes agree, but for one that may be unknown: the number of elements then settles it."""
    if before is None or after is None or len(before) != len(after):
        return False
    doubtful = 0
    for old, new in zip(before, after, strict=True):
        if old == new and (isinstance(old, int) or old.value is not None):
            continue
        if isinstance(old, int) and isinstance(new, int):
            return False
        doubtful += 1
    return doubtful <= 1 and 0 not in before


def _bypass(node: ir.Node) -> bool:
    source, result = node.inputs[0], node.outputs[0]
    if result.is_graph_output():
        if source.is_graph_input() or source.is_graph_output() or source.is_initializer():
            return False  # rule 1
        name = result.name
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
        result.name, source.name = f"{name}/dropped", name
        source.shape, source.type = result.shape, result.type
    else:
        ir.convenience.replace_all_uses_with(result, source)
    node.graph.remove(node, safe=True)
    return True
