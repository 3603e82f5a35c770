"""Add a constant to a graph."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray


def add_constant(graph: ir.Graph, name: str, array: NDArray[Any]) -> ir.Value:
    """Add ``array`` as an initializer called ``name``, or nearly so where the name is taken."""
    while name in graph.initializers:
        name += "_"
    constant = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(constant)
    return constant
