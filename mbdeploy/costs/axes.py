"""Axes and weights as the counting needs them: one batch size, no unknowns, no large data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx import TensorProto

from mbdeploy.costs.folding import MAX_ELEMENTS
from mbdeploy.costs.report import Shape
from mbdeploy.errors import ModelError


def lighten(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose large weights keep name, type and shape but no data; local functions are inlined."""
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    light.graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info"):
        getattr(light.graph, field).extend(getattr(model.graph, field))
    for tensor in model.graph.initializer:
        copy = light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        if is_small(tensor):
            copy.CopyFrom(tensor)
    if not light.functions:
        return light
    inlined: onnx.ModelProto = onnx.inliner.inline_local_functions(light)
    return inlined


def is_small(tensor: onnx.TensorProto) -> bool:
    """Whether a constant may hold sizes, and its values are in the file."""
    size = 1
    for axis in tensor.dims:
        size *= axis
    return size <= MAX_ELEMENTS and tensor.data_location != TensorProto.EXTERNAL


def fill_axes(shape: Sequence[int | None], input_shape: Shape | None, name: str) -> list[int]:
    """An input's shape with a batch of 1 where that is dynamic, and ``input_shape`` (C, H, W) for the rest of an image.

    Raises:
        ModelError: an axis that nobody fills in, or an input shape that does not fit.
    """
    batch = shape[:1] if shape[:1] != [None] else [1]
    given: Sequence[int | None] = input_shape if input_shape and len(shape) == 4 else [None] * len(shape[1:])
    pairs = list(zip(shape[1:], given, strict=True))
    rest = [own if own is not None else other for own, other in pairs]
    clash = any(own is not None and other is not None and own != other for own, other in pairs)
    if clash or None in rest:
        raise ModelError(
            where=name,
            expected="an input whose axes after the first are fixed, or filled in by an input shape that fits",
            found=f"{['?' if axis is None else axis for axis in shape]}"
            + (f" and {list(input_shape)}" if input_shape else ""),
            todo="give --input-shape C,H,W, such as 3,224,224",
        )
    return [axis for axis in (*batch, *rest) if axis is not None]


def fill_batch(kind: onnx.TypeProto, batch_names: set[str]) -> onnx.TypeProto:
    """A declared type with 1 for the axes that are called like the batch."""
    filled = onnx.TypeProto()
    filled.CopyFrom(kind)
    for axis in filled.tensor_type.shape.dim:
        if axis.dim_param in batch_names and not axis.HasField("dim_value"):
            axis.dim_value = 1
    return filled


def is_known(kind: onnx.TypeProto | None) -> bool:
    """Whether a type is a tensor's and has a number for every axis."""
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return False
    return all(axis.HasField("dim_value") for axis in kind.tensor_type.shape.dim)


def measure(kind: onnx.TypeProto, operator: str, attributes: dict[str, Any]) -> NDArray[np.int64]:
    """The value of a Shape or Size node on a tensor of this type."""
    shape = [axis.dim_value for axis in kind.tensor_type.shape.dim]
    if operator == "Size":
        return np.asarray(math.prod(shape), np.int64)
    return np.asarray(shape[attributes.get("start", 0) : attributes.get("end")], np.int64)
