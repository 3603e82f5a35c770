"""FORMS: the integer operators that multiply, and where each keeps its weights, scales and bias."""

from __future__ import annotations

import msgspec

from mbdeploy.auditing.constants import Place, Tensors


class Form(msgspec.Struct, frozen=True):
    """Where an integer operator keeps what: numbers of its inputs, -1 for what it does not have."""

    operator: str
    input: int
    input_scale: int
    input_zero: int
    weight: int
    weight_scale: int
    weight_zero: int
    bias: int


#: Integer operators, whatever their domain, by the float operator that they stand for.
FORMS = {
    "QLinearConv": Form("Conv", 0, 1, 2, 3, 4, 5, 8),
    "QLinearMatMul": Form("MatMul", 0, 1, 2, 3, 4, 5, -1),
    "QGemm": Form("Gemm", 0, 1, 2, 3, 4, 5, 6),
    "ConvInteger": Form("Conv", 0, -1, 2, 1, -1, 3, -1),
    "MatMulInteger": Form("MatMul", 0, -1, 2, 1, -1, 3, -1),
}


def trace_scale(tensors: Tensors, index: int) -> Place | None:
    """Where the scale of an integer product's weights is: behind it, in Mul(Cast(product), Mul(scale of x, it))."""
    for wanted in ("Cast", "Mul"):
        readers = tensors.readers[tensors.nodes[index].output[0]]
        if len(readers) != 1 or tensors.nodes[readers[0][0]].op_type != wanted:
            return None
        index, slot = readers[0]
    factor = tensors.maker(tensors.operand(index, 1 - slot), "Mul")
    if factor is None or len(tensors.readers[tensors.nodes[factor].output[0]]) != 1:
        return None
    stored = [slot for slot in (0, 1) if tensors.read(tensors.operand(factor, slot)) is not None]
    return (factor, stored[0]) if len(stored) == 1 else None
