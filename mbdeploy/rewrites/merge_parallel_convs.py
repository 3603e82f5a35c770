"""Merge convolutions of one tensor that are added, as RepVGG, MobileOne and FastViT have them while they train."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mbdeploy.rewrites.constants import add_constant
from mbdeploy.rewrites.reading import is_read_once


class _Branch(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """What a Conv computes: weight (O, I / group, ...) and bias (O,); per spatial axis what else it is."""

    weight: NDArray[np.float64]
    bias: NDArray[np.float64]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    group: int


class _Affine(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A factor and an offset for each channel; None: the tensor itself."""

    scale: NDArray[np.float64] | None = None
    offset: NDArray[np.float64] | None = None


def merge_parallel_convs(model: ir.Model) -> list[str]:
    """Replace a sum or difference of two Convs of one tensor by one Conv.

    One of the two may be a BatchNormalization of that tensor, or the tensor itself. A sum of linear maps is linear, so
    the smaller kernel is added into the larger one (Ding et al., RepVGG: https://arxiv.org/abs/2101.03697). Rules:
    1. The results that are added have no other use; the tensor may. 2. The Convs agree in stride, group and, unless a
    kernel has length 1, dilation. 3. At each position the smaller window lies inside the larger one, whatever the size
    of the image. 4. Weights are constants of float32, and remain finite.
    """
    candidates = [node for node in model.graph if node.op_type in ("Add", "Sub") and not node.domain]
    return [node.name or "" for node in candidates if _merge(node)]


def _merge(node: ir.Node) -> bool:
    for source in _list_sources(node):
        left, right = (_read_part(value, source) for value in node.inputs)
        if isinstance(left, _Affine) and isinstance(right, _Branch):
            left = _as_conv(left, right)
        elif isinstance(left, _Branch) and isinstance(right, _Affine):
            right = _as_conv(right, left)
        if isinstance(left, _Branch) and isinstance(right, _Branch):
            merged = _add(left, right, 1.0 if node.op_type == "Add" else -1.0)
            return merged is not None and _replace(node, source, merged)
    return False


def _list_sources(node: ir.Node) -> list[ir.Value]:
    """What a Conv or BatchNormalization before either side reads."""
    producers = [value.producer() for value in node.inputs if value is not None]
    return [producer.inputs[0] for producer in producers if producer is not None and _is_linear(producer)]


def _is_linear(node: ir.Node) -> bool:
    return not node.domain and node.op_type in ("Conv", "BatchNormalization") and node.inputs[0] is not None


def _read_part(value: ir.Value | None, source: ir.Value) -> _Branch | _Affine | None:
    """One side of the sum as a map of ``source``, or None if it is something else, or is needed elsewhere (rule 1)."""
    if value is source:
        return _Affine()
    node = None if value is None else value.producer()
    if node is None or not _is_linear(node) or node.inputs[0] is not source:
        return None
    if not is_read_once(node.outputs[0]):
        return None
    constants = [ir.convenience.get_const_tensor(constant) for constant in node.inputs[1:] if constant is not None]
    if any(constant is None or constant.dtype != ir.DataType.FLOAT for constant in constants):
        return None
    arrays = [constant.numpy().astype(np.float64) for constant in constants if constant is not None]
    return _read_conv(node, arrays) if node.op_type == "Conv" else _read_norm(node, arrays)


def _read_conv(node: ir.Node, arrays: list[NDArray[np.float64]]) -> _Branch | None:
    weight = arrays[0]
    rank = weight.ndim - 2
    attributes = node.attributes
    if attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    pads = tuple(attributes.get_ints("pads", (0,) * (2 * rank)))
    return _Branch(
        weight=weight,
        bias=arrays[1] if len(arrays) > 1 else np.zeros(len(weight)),
        strides=tuple(attributes.get_ints("strides", (1,) * rank)),
        dilations=tuple(attributes.get_ints("dilations", (1,) * rank)),
        begins=pads[:rank],
        ends=pads[rank:],
        group=attributes.get_int("group", 1),
    )


def _read_norm(node: ir.Node, arrays: list[NDArray[np.float64]]) -> _Affine | None:
    if node.attributes.get_int("training_mode", 0) or len(node.outputs) > 1:
        return None
    gamma, beta, mean, variance = arrays
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return _Affine(scale=scale, offset=beta - mean * scale)


def _as_conv(affine: _Affine, like: _Branch) -> _Branch | None:
    """The same map as a Conv with a kernel of length 1 and the groups of another, which keeps the channels."""
    channels, inputs = like.weight.shape[:2]
    if inputs * like.group != channels or any(stride != 1 for stride in like.strides):
        return None
    scale = np.ones(channels) if affine.scale is None else affine.scale
    if len(scale) != channels:
        return None
    rank = like.weight.ndim - 2
    weight = np.zeros((channels, inputs, *(1,) * rank))
    weight[np.arange(channels), np.arange(channels) % inputs] = scale.reshape(-1, *(1,) * rank)
    ones, zeros = (1,) * rank, (0,) * rank
    bias = np.zeros(channels) if affine.offset is None else affine.offset
    return _Branch(weight=weight, bias=bias, strides=ones, dilations=ones, begins=zeros, ends=zeros, group=like.group)


def _add(left: _Branch, right: _Branch, sign: float) -> _Branch | None:
    if left.weight.shape[:2] != right.weight.shape[:2] or (left.strides, left.group) != (right.strides, right.group):
        return None
    for large, small, large_sign, small_sign in ((left, right, 1.0, sign), (right, left, sign, 1.0)):
        place = _place(large, small)
        if place is not None:
            weight = large_sign * large.weight
            within = (slice(None), slice(None), *place)
            weight[within] += small_sign * small.weight
            bias = large_sign * large.bias + small_sign * small.bias
            return msgspec.structs.replace(large, weight=weight, bias=bias)
    return None


def _place(large: _Branch, small: _Branch) -> tuple[slice, ...] | None:
    """Where in the larger kernel the smaller one lies, per axis (rules 2 and 3)."""
    found = []
    for axis, dilation in enumerate(large.dilations):
        length, inner = large.weight.shape[2 + axis], small.weight.shape[2 + axis]
        if inner > 1 and small.dilations[axis] != dilation:
            return None
        start, rest = divmod(large.begins[axis] - small.begins[axis], dilation)
        beyond = length - inner - start
        if rest or start < 0 or beyond < 0 or large.ends[axis] - small.ends[axis] != beyond * dilation:
            return None
        found.append(slice(start, start + inner))
    return tuple(found)


def _replace(node: ir.Node, source: ir.Value, merged: _Branch) -> bool:
    with np.errstate(over="ignore"):
        arrays = {"weight": merged.weight.astype(np.float32), "bias": merged.bias.astype(np.float32)}
    if not all(np.isfinite(array).all() for array in arrays.values()):
        return False
    output = node.outputs[0]
    values = [add_constant(node.graph, f"{output.name}/{role}", array) for role, array in arrays.items()]
    attributes = {
        "strides": merged.strides,
        "dilations": merged.dilations,
        "pads": (*merged.begins, *merged.ends),
        "group": merged.group,
    }
    gone = [producer for value in node.inputs if (producer := value.producer()) and value is not source]
    conv = ir.node("Conv", [source, *values], attributes=attributes, name=gone[0].name)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node, *gone], [conv], [output], conv.outputs)
    return True
