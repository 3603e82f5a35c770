"""What tensors say of their size: no overflow, no more memory than allowed, and just the data that they declare."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mbdeploy.bounds import Bounds
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name
from mbdeploy.preflight.walking import Places, read_constant

#: Bits of an element by TensorProto.DataType.
BITS = {
    **dict.fromkeys((1, 6, 12), 32),
    **dict.fromkeys((2, 3, 9, 17, 18, 19, 20, 24), 8),
    **dict.fromkeys((4, 5, 10, 16), 16),
    **dict.fromkeys((7, 11, 13, 14), 64),
    15: 128,
    **dict.fromkeys((21, 22, 23), 4),
    **dict.fromkeys((25, 26), 2),
}
_STRING = 8
_MOST_AXES = 32
_LARGEST_AXIS = 2**31 - 1
_UNKNOWN = -1
#: Where typed data lie by data type, and how many fields an element takes (complex numbers: two).
_TYPED = {1: "float_data", 14: "float_data", 7: "int64_data", 11: "double_data", 15: "double_data"} | dict.fromkeys(
    (12, 13), "uint64_data"
)
_COMPLEX = (14, 15)


def check_shapes(places: Places, where: object, bounds: Bounds, *, light: bool = False) -> list[int]:
    """The bytes of every tensor, once these, declared values and constant shapes have been looked at.

    In a ``light`` model a tensor can lack its data.

    Raises:
        ModelError: negative or too large sizes, an unknown type, data of another size than declared, too much memory.
    """
    sizes = [_check_tensor(tensor, where, bounds, light) for tensor in places.tensors]
    total = sum(sizes)
    for item in places.sparse:
        total += count_bytes(item.dims, item.values.data_type, show_name(item.values.name), where, bounds)
        total += sum(_check_tensor(part, where, bounds, light) for part in (item.values, item.indices))
    if total > bounds.max_memory:
        raise refuse_more(where, bounds, "max_memory", "bytes of weights", show_bytes(total))
    for value in places.values:
        kind = value.type.tensor_type
        if kind.elem_type and kind.HasField("shape"):
            axes = [axis.dim_value if axis.HasField("dim_value") else 1 for axis in kind.shape.dim]
            count_bytes(axes, kind.elem_type, show_name(value.name), where, bounds)
    for node in places.nodes:
        made = _find_made(node, places)
        if made is not None:
            count_bytes(made, 1, f"what {show_name(node.op_type)[1:-1]} {show_name(node.name)} makes", where, bounds)
    return sizes


def forget_unknown(places: Places) -> None:
    """Clear declared axes of -1, in place: exporters such as Paddle's write so what the others leave out."""
    for value in places.values:
        for axis in value.type.tensor_type.shape.dim if value.type.HasField("tensor_type") else ():
            if axis.HasField("dim_value") and axis.dim_value == _UNKNOWN:
                axis.Clear()


def count_bytes(axes: Sequence[int], data_type: int, name: str, where: object, bounds: Bounds) -> int:
    """The bytes of a tensor of these axes.

    Raises:
        ModelError: it cannot be, or is more than ``max_memory``.
    """
    if len(axes) > _MOST_AXES or any(not 0 <= axis <= _LARGEST_AXIS for axis in axes):
        shown = f"{list(axes[:6])}" + (" …" if len(axes) > 6 else "")
        raise refuse(where, f"at most {_MOST_AXES} axes from 0 to 2^31 - 1", f"{shown} in {name}")
    if data_type != _STRING and data_type not in BITS:
        raise refuse(where, "an element type of ONNX", f"type {data_type} in {name}")
    elements = 1
    for axis in axes:
        elements *= axis
    size = (elements * BITS.get(data_type, 8) + 7) // 8
    if size > bounds.max_memory:
        raise refuse_more(where, bounds, "max_memory", "bytes in a tensor", f"{show_bytes(size)} in {name}")
    return size


def _check_tensor(tensor: Any, where: object, bounds: Bounds, light: bool) -> int:
    name = show_name(tensor.name)
    size = count_bytes(tensor.dims, tensor.data_type, name, where, bounds)
    if tensor.data_location or tensor.external_data:
        return size  # external.py
    elements = 1
    for axis in tensor.dims:
        elements *= axis
    if tensor.data_type == _STRING:
        found, wanted = len(tensor.string_data), elements
    elif tensor.HasField("raw_data"):
        found, wanted = len(tensor.raw_data), size
    else:
        wanted = elements * (2 if tensor.data_type in _COMPLEX else 1)
        if BITS[tensor.data_type] < 8:
            wanted = size
        found = len(getattr(tensor, _TYPED.get(tensor.data_type, "int32_data")))
    if found != wanted and not (light and found == 0):
        raise refuse(where, f"{wanted} values or bytes of data in {name}", f"{found}", "make or download it again")
    return size


def _find_made(node: Any, places: Places) -> list[int] | None:
    """The axes of what a node makes of constants alone, where that can be large."""
    index = _SIZED_BY_INPUT.get(node.op_type)
    if index is not None and len(node.input) > index:
        values = read_constant(places, node.input[index])
        if values is None or node.op_type == "Reshape" or any(value != int(value) for value in values):
            return None
        if node.op_type == "OneHot":
            return [int(values[0])] if values else None
        return [int(value) for value in values]
    if node.op_type in _SIZED_BY_ATTRIBUTE:
        return next((list(item.ints) for item in node.attribute if item.name == "shape"), None)
    if node.op_type == "Range" and len(node.input) == 3:
        parts = [read_constant(places, name) for name in node.input]
        if all(part is not None and len(part) == 1 for part in parts):
            start, limit, step = (part[0] for part in parts if part is not None)
            return [max(0, int((limit - start) / step))] if step and abs(limit - start) < 2.0**62 else [-1]
    return None


_SIZED_BY_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1, "OneHot": 1}
_SIZED_BY_ATTRIBUTE = ("RandomNormal", "RandomUniform")
