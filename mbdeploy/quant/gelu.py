"""GELU as one node: ONNX Runtime cannot fuse its five nodes once Q/DQ pairs surround them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbdeploy.model_file import list_readers, read_opset

#: The first opset with the operator, and the first from which nothing changes up to it but what is listed.
_OPSET, _LEAST = 20, 18
_CHANGED = frozenset(("GridSample", "DFT"))
_CLOSE = 1e-5


def fuse_gelus(model: onnx.ModelProto) -> None:
    """Write (x * (1 + erf(x / sqrt(2)))) * 0.5, as `mbdeploy simplify` orders it, as Gelu (opset 20), in place.

    A dequantized tensor that two nodes read is dequantized twice, which hides the pattern from ONNX Runtime's fusion.
    A model of opset 18 or 19 gets opset 20, unless it has an operator that is another one there.
    """
    opset = read_opset(model)
    graph = model.graph
    if opset < _LEAST or any(node.op_type in _CHANGED for node in graph.node):
        return
    readers = list_readers(graph)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if not any(tensor.dims)}
    makers = {node.output[0]: node for node in graph.node}
    outputs = {value.name for value in graph.output}
    found = False
    for erf in [node for node in graph.node if node.op_type == "Erf"]:
        quotient = makers.get(erf.input[0])
        chain = [quotient, *_follow(erf, readers)] if quotient is not None else []
        if [node.op_type for node in chain] != ["Div", "Erf", "Add", "Mul", "Mul"]:
            continue
        source = chain[0].input[0]
        numbers = (math.sqrt(2), None, 1.0, None, 0.5)
        fits = all(
            number is None or _reads(node, number, constants) for node, number in zip(chain, numbers, strict=True)
        )
        inner = {node.output[0] for node in chain[:-1]}
        if not fits or source not in chain[3].input or inner & outputs or len(readers[erf.input[0]]) > 1:
            continue
        chain[-1].CopyFrom(helper.make_node("Gelu", [source], chain[-1].output, chain[-1].name))
        for node in chain[:-1]:
            graph.node.remove(node)
        found = True
    if found:
        next(item for item in model.opset_import if item.domain in ("", "ai.onnx")).version = max(opset, _OPSET)
        model.ir_version = max(
            model.ir_version, helper.find_min_ir_version_for(model.opset_import, ignore_unknown=True)
        )


def _follow(node: onnx.NodeProto, readers: Mapping[str, Sequence[onnx.NodeProto]]) -> list[onnx.NodeProto]:
    """A node and up to three behind it, each the only reader of the one before."""
    chain = [node]
    while len(chain) < 4 and len(following := readers.get(chain[-1].output[0], ())) == 1:
        chain.append(following[0])
    return chain


def _reads(node: onnx.NodeProto, number: float, constants: Mapping[str, NDArray[np.generic]]) -> bool:
    """Whether an input (of a Div the second) is this number."""
    names = node.input[1:] if node.op_type == "Div" else node.input
    return any(name in constants and math.isclose(float(constants[name]), number, rel_tol=_CLOSE) for name in names)
