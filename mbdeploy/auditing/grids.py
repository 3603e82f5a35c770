"""Scales and zero points that cannot be right, wherever they stand in a quantized graph."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mbdeploy.auditing.constants import Tensors
from mbdeploy.auditing.products import Product
from mbdeploy.auditing.report import Spot
from mbdeploy.quant.pairsafe import Floats

#: Fewer levels than this, for a tensor's range or a channel's largest weight, are too few; as in ``inspect``'s MB202.
FEW_LEVELS = 8
_PROBABILITIES = ("Sigmoid", "Softmax", "HardSigmoid")
_INT32 = np.iinfo(np.int32)
_TINY = float(np.finfo(np.float32).tiny)


def find_bad_scales(tensors: Tensors) -> list[Spot]:
    """Scales that are zero, negative, infinite or NaN; each stored tensor once."""
    found = []
    for node, name, numbers in _walk_scales(tensors):
        counts = {
            "not finite": int((~np.isfinite(numbers)).sum()),
            "zero": int((numbers == 0).sum()),
            "negative": int((numbers < 0).sum()),
        }
        text = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
        if text:
            found.append(Spot(node=node, text=f"{name}: {text}, of {numbers.size}"))
    return found


def find_tiny_scales(tensors: Tensors) -> list[Spot]:
    """Scales above zero, but below the smallest normal float32; each stored tensor once."""
    found = []
    for node, name, numbers in _walk_scales(tensors):
        tiny = int(((numbers > 0) & (numbers < _TINY)).sum())
        if tiny:
            found.append(Spot(node=node, text=f"{name}: {tiny} of {numbers.size}"))
    return found


def find_bad_zeros(tensors: Tensors) -> list[Spot]:
    """Zero points of another type than the tensor that they belong to, and int32 ones that are not zero."""
    found: dict[str, Spot] = {}
    for index, data, _, slot in tensors.walk_grids():
        name = tensors.operand(index, slot)
        if not name or name in found:
            continue
        values, own = tensors.read(name), tensors.type_of(name)
        kind = tensors.type_of(tensors.operand(index, data)) if data >= 0 else own
        if "?" not in (kind, own) and kind != own:
            found[name] = Spot(node=tensors.name(index), text=f"{name} is {own}, what it belongs to {kind}")
        elif own == "s32" and values is not None and values.any():
            found[name] = Spot(node=tensors.name(index), text=f"{name}: a bias with a zero point")
    return list(found.values())


def find_crushed(tensors: Tensors) -> list[tuple[float, Spot]]:
    """Inputs of a Concat that keep few levels at the scale of its result, each with the levels that it keeps.

    An input has 256 levels at the scale that it comes with; a probability, which comes without, has those of 0..1.
    """
    found = []
    for index, node in enumerate(tensors.nodes):
        for name, own, joined in _list_joined(tensors, index):
            if joined > 0 and np.isfinite([own, joined]).all() and 0 < own < joined:
                levels = 256 * own / joined
                if levels < FEW_LEVELS:
                    text = f"{name!r} keeps {max(1, round(levels))} of 256 levels at the scale of {node.output[0]!r}"
                    found.append((levels, Spot(node=tensors.name(index), text=text)))
    return found


def find_uneven_zeros(products: Sequence[Product]) -> list[Spot]:
    """Weights whose channels have different zero points: integer kernels take one for all, or refuse."""
    return [
        Spot(node=product.layer.node, text=f"weights with {np.unique(product.zeros).size} different zero points")
        for product in products
        if np.unique(product.zeros).size > 1
    ]


def find_overflow(product: Product) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Per channel, whether its sum can leave int32, and whether its bias was cut off at the end of int32."""
    if product.bias is None:
        return np.zeros(product.channels, np.bool_), np.zeros(product.channels, np.bool_)
    low, high = bound_sums(product)
    cut = (product.bias == _INT32.min) | (product.bias == _INT32.max)
    return (low < _INT32.min) | (high > _INT32.max), cut


def bound_sums(product: Product) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The lowest and the highest sum, bias included, that inputs of 8 bits can give each channel."""
    view = product.view.astype(np.int64) - product.spread(product.zeros)
    zero = product.input_zero or 0
    least, most = (-128 - zero, 127 - zero) if product.kind.startswith("s8") else (-zero, 255 - zero)
    ends = np.stack([view * least, view * most])
    bias = np.zeros(product.channels, np.int64) if product.bias is None else product.bias
    return bias + ends.min(axis=0).sum(axis=(1, 2)), bias + ends.max(axis=0).sum(axis=(1, 2))


def _walk_scales(tensors: Tensors) -> Iterator[tuple[str, str, Floats]]:
    """Each stored scale once: the first node that reads it, its name and its numbers."""
    seen = set()
    for index, _, slot, _ in tensors.walk_grids():
        name = tensors.operand(index, slot)
        values = tensors.read(name)
        if values is not None and name not in seen and values.dtype.kind == "f":
            seen.add(name)
            yield tensors.name(index), name, values.astype(np.float64)


def _list_joined(tensors: Tensors, index: int) -> Iterator[tuple[str, float, float]]:
    """Of a node that joins tensors to one scale: each input that varies, its scale, and the result's."""
    node = tensors.nodes[index]
    if node.op_type == "QLinearConcat":
        joined = _read_scale(tensors, tensors.operand(index, 0))
        for slot in range(2, len(node.input) - 1, 3):
            yield tensors.operand(index, slot), _read_scale(tensors, tensors.operand(index, slot + 1)), joined
    elif node.op_type == "Concat" and node.output:
        readers = [tensors.nodes[reader] for reader, _ in tensors.readers[node.output[0]]]
        scales = [_read_scale(tensors, reader.input[1]) for reader in readers if reader.op_type == "QuantizeLinear"]
        for name in node.input if scales and len(scales) == len(readers) else ():
            maker = tensors.producers.get(name)
            operator = "" if maker is None else tensors.nodes[maker].op_type
            if maker is not None and operator == "DequantizeLinear":
                yield name, _read_scale(tensors, tensors.operand(maker, 1)), min(scales)
            elif operator in _PROBABILITIES:
                yield name, 1 / 255, min(scales)


def _read_scale(tensors: Tensors, name: str) -> float:
    """One scale for a tensor; 0 where there is none, or one a channel."""
    values = tensors.read(name) if name else None
    return float(values.reshape(())) if values is not None and values.size == 1 else 0.0
