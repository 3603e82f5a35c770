"""Graph rewrites: a table from a rewrite's name to the function that does it, and the loop that runs them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from mbdeploy.errors import UsageError
from mbdeploy.records import Rewrite

if TYPE_CHECKING:
    import onnx_ir as ir

    Rewriter = Callable[[ir.Model], Sequence[str]]
    """Changes the model in place and returns a name for each change (of a node, an initializer), or nothing."""

ENTRY_POINTS = "mbdeploy.rewrites"

#: In the order in which they run: constants first, because every later one asks for constants and shapes.
REWRITES: dict[str, str] = {
    "inline_functions": "mbdeploy.rewrites.borrowed:inline_functions",
    "lift_constants": "mbdeploy.rewrites.borrowed:lift_constants",
    "fold_constants": "mbdeploy.rewrites.fold_constants:fold_constants",
    "drop_no_ops": "mbdeploy.rewrites.drop_no_ops:drop_no_ops",
    "fix_reshapes": "mbdeploy.rewrites.fix_reshapes:fix_reshapes",
    "merge_moves": "mbdeploy.rewrites.borrowed:merge_moves",
    "merge_clips": "mbdeploy.rewrites.borrowed:merge_clips",
    "hard_sigmoid": "mbdeploy.rewrites.hard_sigmoid:hard_sigmoid",
    "pad_into_conv": "mbdeploy.rewrites.borrowed:pad_into_conv",
    "batch_norm_into_conv": "mbdeploy.rewrites.borrowed:batch_norm_into_conv",
    "affine_into_conv": "mbdeploy.rewrites.affine_into_conv:affine_into_conv",
    "merge_parallel_convs": "mbdeploy.rewrites.merge_parallel_convs:merge_parallel_convs",
    "matmul_add_to_gemm": "mbdeploy.rewrites.matmul_add_to_gemm:matmul_add_to_gemm",
    "mean_to_global_pool": "mbdeploy.rewrites.mean_to_global_pool:mean_to_global_pool",
    "gelu": "mbdeploy.rewrites.gelu:gelu",
    "hard_swish": "mbdeploy.rewrites.borrowed:hard_swish",
    "share_constants": "mbdeploy.rewrites.borrowed:share_constants",
    "drop_unused": "mbdeploy.rewrites.borrowed:drop_unused",
}
#: A rewrite that never settles is stopped here; what it did is still checked against the input model.
_MAX_ROUNDS = 10


def list_rewrites() -> list[str]:
    """The names of our rewrites, in the order in which they run, then those of installed plug-ins by name."""
    plugged = {point.name for point in metadata.entry_points(group=ENTRY_POINTS)}
    return [*REWRITES, *sorted(plugged - set(REWRITES))]


def load_rewrite(name: str) -> Rewriter:
    """The function of a row of ``REWRITES``, or of an entry point of the group ``mbdeploy.rewrites``.

    Raises:
        UsageError: no such rewrite (what exists is listed).
    """
    if name in REWRITES:
        module, _, function = REWRITES[name].partition(":")
        rewriter: Rewriter = getattr(import_module(module), function)
        return rewriter
    for point in metadata.entry_points(group=ENTRY_POINTS, name=name):
        plugged: Rewriter = point.load()
        return plugged
    raise UsageError(
        where=f"rewrite {name}",
        expected=f"one of {', '.join(list_rewrites())}",
        found="no such rewrite",
        todo="correct its name, or install the plug-in that brings it",
    )


def rewrite_model(model: ir.Model, names: Sequence[str]) -> tuple[Rewrite, ...]:
    """Run these rewrites in turn on ``model``, in place, round after round until a whole round changes nothing.

    Returns what changed, by rewrite. Shapes are inferred before the first and after every change.
    """
    from onnx_ir.passes import common

    rewriters = {name: load_rewrite(name) for name in names}
    changes: dict[str, list[str]] = {name: [] for name in names}
    common.NameFixPass()(model)  # a change is reported by name, so everything needs one
    _infer_shapes(model)
    for _ in range(_MAX_ROUNDS):
        settled = True
        for name, rewriter in rewriters.items():
            if changed := rewriter(model):
                changes[name] += changed
                common.NameFixPass()(model)
                _infer_shapes(model)
                settled = False
        if settled:
            break
    return tuple(
        Rewrite(name=name, count=len(changed), nodes=tuple(changed)) for name, changed in changes.items() if changed
    )


def _infer_shapes(model: ir.Model) -> None:
    """Infer all shapes; a size that is only a symbol, and none of the inputs', is inferred anew: it may be known."""
    import onnx_ir as ir
    from onnx_ir.passes import common

    given = {str(size) for value in model.graph.inputs for size in value.shape or ()}
    for node in model.graph:
        for value in node.outputs:
            if value.shape is not None and not value.is_graph_output():
                value.shape = ir.Shape(
                    size if isinstance(size, int) or str(size) in given else None for size in value.shape
                )
    common.ShapeInferencePass(strict_mode=False, data_prop=True)(model)
