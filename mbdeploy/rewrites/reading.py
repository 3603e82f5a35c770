"""Read what a rewrite matches: constants that are one number, and tensors that one node reads."""

from __future__ import annotations

import onnx_ir as ir


def read_number(value: ir.Value | None, rank: int = 0) -> float | None:
    """A constant that is one number of no more axes than ``rank``, which would enlarge a result; else None."""
    constant = None if value is None else ir.convenience.get_const_tensor(value)
    if constant is None or constant.size != 1 or len(constant.shape) > rank:
        return None
    return float(constant.numpy().item())


def is_read_once(value: ir.Value) -> bool:
    """Whether one node reads a tensor, and it is no output."""
    return len(value.uses()) == 1 and not value.is_graph_output()


def read_only_reader(value: ir.Value) -> ir.Node | None:
    """The one node that reads a tensor, None where there are more, or the tensor is an output."""
    return next(iter(value.uses())).node if is_read_once(value) else None
