"""Rewrites that onnx-ir and onnxscript ship: each is a row of their passes or rules, made to say what it changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript.rewriter import RewriteRule, RewriteRuleSet
from onnxscript.rewriter.rules import common as rules


def run_passes(
    model: ir.Model, *, passes: Sequence[Callable[[ir.Model], object]], kinds: Sequence[str] = ("node", "constant")
) -> list[str]:
    """Run these passes; returns the names of what they took away, of these ``kinds`` (node, constant, input)."""
    before = _list_names(model)
    for run_pass in passes:
        run_pass(model)
    after = set(_list_names(model))
    return [name for kind, name in before if kind in kinds and (kind, name) not in after]


def run_rules(model: ir.Model, *, rules: Iterable[RewriteRule], opset: int = 1) -> list[str]:
    """Apply these pattern rules; returns, for each match, the name of the node on which the pattern ended.

    Rules: 1. below ``opset``, which first has the operators that they make, they are left out. 2. A
    new node takes the name of the one whose operator it has, so that a layer keeps its name.
    """
    if model.opset_imports.get("", 1) < opset:
        return []  # rule 1
    matched: list[str] = []
    RewriteRuleSet([_Recorded(rule, matched) for rule in rules]).apply_to_model(model)
    return matched


class _Recorded:
    """A rule that notes where it matched; for everything else it is the rule it wraps."""

    def __init__(self, rule: RewriteRule, matched: list[str]) -> None:
        self._rule = rule
        self._matched = matched

    def __getattr__(self, name: str) -> Any:
        return getattr(self._rule, name)

    def try_rewrite(self, model: ir.Model, graph: ir.Graph, node: ir.Node, **options: Any) -> Any:
        found = self._rule.try_rewrite(model, graph, node, **options)
        if found is not None:
            self._matched.append(node.name)
            names = {old.op_type: old.name for old in found.match.nodes}
            for new in found.new_nodes:
                new.name = names.get(new.op_type, node.name)  # rule 2
        return found


def _list_names(model: ir.Model) -> list[tuple[str, str]]:
    graph = model.graph
    return [
        *(("node", node.name) for node in ir.traversal.RecursiveGraphIterator(graph)),
        *(("constant", name) for name in graph.initializers),
        *(("input", value.name) for value in graph.inputs),
    ]


inline_functions = partial(run_passes, passes=(common.InlinePass(),))

#: ONNX Runtime's quantizer wants weights, and the bounds of a Clip, as initializers that no input can replace.
lift_constants = partial(
    run_passes,
    passes=(
        common.RemoveInitializersFromInputsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    ),
    kinds=("node", "input"),
)

#: Scalars and shapes only: weights and biases stay one per layer, so that each layer is quantized by itself.
share_constants = partial(run_passes, passes=(common.DeduplicateInitializersPass(size_limit=8),))

drop_unused = partial(
    run_passes,
    passes=(common.RemoveUnusedNodesPass(), common.RemoveUnusedFunctionsPass(), common.RemoveUnusedOpsetsPass()),
)

merge_moves = partial(
    run_rules,
    rules=(rules.reshape_reshape_rule, rules.transpose_transpose_rule, rules.unsqueeze_unsqueeze_rule),
)

#: A Clip or Relu disappears into the quantized Conv before it; Min and Max would stay in float.
merge_clips = partial(
    run_rules,
    rules=(
        rules.min_max_rule,
        rules.max_min_rule,
        rules.successive_relu_rule,
        rules.successive_relu_clip_rule,
        rules.successive_clip_relu_rule,
        rules.successive_clip_rule,
    ),
)

pad_into_conv = partial(run_rules, rules=(rules.fuse_pad_into_conv_rule,))

batch_norm_into_conv = partial(
    run_rules,
    rules=(
        rules.fuse_batchnorm_into_conv_rule,
        rules.fuse_batchnorm_into_conv_transpose_rule,
        rules.fuse_batchnorm_into_gemm_rule,
    ),
)

#: x * HardSigmoid(x) as the one operator that ONNX Runtime fuses into a Conv. Of onnxscript's rules those that look for
#: a Clip are left out: they take integers, too, and find fewer spellings than ``hard_sigmoid``.
hard_swish = partial(
    run_rules,
    rules=[rule for rule in rules.fuse_hardswish_rules() if rule.name == "HardSwishFusionFromHardSigmoid"],
    opset=14,
)
