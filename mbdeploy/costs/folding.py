"""Values of small constant expressions: the shape arithmetic that exporters write around Reshape, Pad and Slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

Values = list[Any]
Attributes = Mapping[str, Any]
#: Larger constants are data, not sizes: only their shapes matter here.
MAX_ELEMENTS = 1024


def read_attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values; strings decoded."""
    values = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    return {
        name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for name, value in values.items()
    }


def fold_node(operator: str, attributes: Attributes, values: Values) -> NDArray[Any] | None:
    """The value of a node whose inputs are all known (None where one is left out), or None if it is not in the table.

    What a broken file makes impossible (shapes that do not fit, a division by zero) is no value either.
    """
    if operator not in _FOLDERS:
        return None
    try:
        with np.errstate(all="ignore"):
            result = np.asarray(_FOLDERS[operator](attributes, values))
    except (ValueError, IndexError, TypeError, ZeroDivisionError, KeyError, OverflowError, MemoryError):
        return None
    return result if result.size <= MAX_ELEMENTS else None


def _constant(attributes: Attributes, values: Values) -> NDArray[Any]:
    if "value" in attributes:
        return np.asarray(numpy_helper.to_array(attributes["value"]))
    for name, kind in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
        if name in attributes:
            return np.asarray(attributes[name], kind)
    return np.asarray(attributes["value_floats"], np.float32)


def _constant_of_shape(attributes: Attributes, values: Values) -> NDArray[Any]:
    shape = tuple(values[0].astype(np.int64).tolist())
    if np.prod(shape, dtype=object) > MAX_ELEMENTS:
        raise ValueError("a constant too large to be a size")
    fill = numpy_helper.to_array(attributes["value"])[0] if "value" in attributes else np.float32(0)
    return np.full(shape, fill)


def _cast(attributes: Attributes, values: Values) -> NDArray[Any]:
    cast: NDArray[Any] = values[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    return cast


def _divide(attributes: Attributes, values: Values) -> NDArray[Any]:
    if not np.issubdtype(values[0].dtype, np.integer):
        return np.asarray(values[0] / values[1])
    if np.any(values[1] == 0):
        raise ZeroDivisionError
    quotient = np.trunc(values[0] / values[1]).astype(values[0].dtype)  # ONNX rounds towards zero
    return np.asarray(quotient)


def _slice(attributes: Attributes, values: Values) -> NDArray[Any]:
    data = values[0]
    if "starts" in attributes:  # opset 1
        starts, ends, steps = attributes["starts"], attributes["ends"], None
        axes = attributes.get("axes")
    else:
        starts, ends = values[1].tolist(), values[2].tolist()
        axes = values[3].tolist() if len(values) > 3 and values[3] is not None else None
        steps = values[4].tolist() if len(values) > 4 and values[4] is not None else None
    index = [slice(None)] * data.ndim
    for place, axis in enumerate(range(len(starts)) if axes is None else axes):
        step = 1 if steps is None else steps[place]
        end = None if step < 0 and ends[place] < -data.shape[axis] else ends[place]
        index[axis] = slice(starts[place], end, step)
    return np.asarray(data[tuple(index)])


def _axes(attributes: Attributes, values: Values, slot: int = 1) -> tuple[int, ...] | None:
    if len(values) > slot and values[slot] is not None:
        return tuple(values[slot].reshape(-1).tolist())
    return tuple(attributes["axes"]) if "axes" in attributes else None


def _unsqueeze(attributes: Attributes, values: Values) -> NDArray[Any]:
    return np.expand_dims(values[0], _axes(attributes, values) or ())


def _reshape(attributes: Attributes, values: Values) -> NDArray[Any]:
    wanted = [values[0].shape[place] if size == 0 else size for place, size in enumerate(values[1].tolist())]
    reshaped: NDArray[Any] = values[0].reshape(wanted)
    return reshaped


def _range(attributes: Attributes, values: Values) -> NDArray[Any]:
    start, limit, step = (value.item() for value in values)
    if step == 0 or (limit - start) / step > MAX_ELEMENTS:
        raise ValueError("a range too long to be sizes")
    return np.arange(start, limit, step, dtype=values[0].dtype)


def _expand(attributes: Attributes, values: Values) -> NDArray[Any]:
    shape = np.broadcast_shapes(values[0].shape, tuple(values[1].tolist()))
    if np.prod(shape, dtype=object) > MAX_ELEMENTS:
        raise ValueError("too large to be a size")
    return np.broadcast_to(values[0], shape)


def _reduce(function: Callable[..., Any]) -> Callable[[Attributes, Values], Any]:
    def reduce(attributes: Attributes, values: Values) -> Any:
        return function(values[0], axis=_axes(attributes, values), keepdims=bool(attributes.get("keepdims", 1)))

    return reduce


def _call(function: Callable[..., Any]) -> Callable[[Attributes, Values], Any]:
    return lambda attributes, values: function(*values)


_FOLDERS: dict[str, Callable[[Attributes, Values], Any]] = {
    "Add": _call(np.add),
    "Cast": _cast,
    "Ceil": _call(np.ceil),
    "Concat": lambda attributes, values: np.concatenate(values, attributes["axis"]),
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Div": _divide,
    "Equal": _call(np.equal),
    "Expand": _expand,
    "Floor": _call(np.floor),
    "Gather": lambda attributes, values: np.take(values[0], values[1], attributes.get("axis", 0)),
    "Greater": _call(np.greater),
    "Identity": lambda attributes, values: values[0],
    "Less": _call(np.less),
    "Max": lambda attributes, values: np.maximum.reduce(np.broadcast_arrays(*values)),
    "Min": lambda attributes, values: np.minimum.reduce(np.broadcast_arrays(*values)),
    "Mod": _call(np.mod),
    "Mul": _call(np.multiply),
    "Neg": _call(np.negative),
    "Not": _call(np.logical_not),
    "Range": _range,
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": lambda attributes, values: np.squeeze(values[0], _axes(attributes, values)),
    "Sub": _call(np.subtract),
    "Transpose": lambda attributes, values: np.transpose(values[0], attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
    "Where": _call(np.where),
}
