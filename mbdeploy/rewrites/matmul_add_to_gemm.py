"""MatMul and a bias Add as one Gemm, which ONNX Runtime quantizes as one node with its bias in int32."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule

from mbdeploy.rewrites.borrowed import run_rules


def matmul_add_to_gemm(model: ir.Model) -> list[str]:
    """Replace ``x·W + b`` by Gemm where W and b are constant, x is a matrix and b is one number or one row.

    onnxscript has the same rule, but does not look at b, which may enlarge a sum and not a Gemm.
    """
    return run_rules(model, rules=_RULES)


def _is_gemm(context: object, *, x: ir.Value, w: ir.Value, b: ir.Value) -> bool:
    weight, bias = (ir.convenience.get_const_tensor(value) for value in (w, b))
    if weight is None or bias is None or len(weight.shape) != 2 or x.shape is None or len(x.shape) != 2:
        return False
    columns = weight.shape[1]
    return tuple(bias.shape) in {(), (1,), (1, 1), (columns,), (1, columns)}


def _add_matmul(op: Any, x: Any, w: Any, b: Any) -> Any:
    return op.Add(op.MatMul(x, w), b)


def _gemm(op: Any, x: Any, w: Any, b: Any) -> Any:
    return op.Gemm(x, w, b)


_RULES = RewriteRule(_add_matmul, _gemm, _is_gemm).commute()
