"""What a layer's time is predicted from: its kind's MACs, bytes, weights and a constant, in one precision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mbdeploy.costs.report import KINDS, LayerCost

#: Channels that depthwise kernels take at a time, at most; INT8 files have channels of zeros up to the next block.
_BLOCK = 16
#: Of each kind of layer.
_PARTS = ("MACs", "bytes", "weight bytes", "layers")
#: Of a network's time outside its known layers.
_REST = ("networks", "bytes outside", "layers outside")
#: Without times of layers: few numbers, because there are few networks.
COARSE = ("dense MACs", "depthwise MACs", "bytes", "layers", "networks")
FINE = (*(f"{part} of {kind}" for kind in KINDS for part in _PARTS), *_REST)
_DENSE = ("standard conv", "pointwise conv", "grouped conv", "gemm")


def list_layers(layers: Iterable[LayerCost]) -> list[LayerCost]:
    """The layers that take time of their own: not fused into others, and not views."""
    return [layer for layer in layers if not layer.fused and layer.bytes_fp32]


def describe_layer(layer: LayerCost, *, is_float: bool) -> NDArray[np.float64]:
    """One layer's numbers, in the order of ``FINE``; depthwise MACs are those of channels in whole blocks."""
    found = np.zeros(len(FINE))
    start = KINDS.index(layer.kind) * len(_PARTS)
    size = layer.bytes_fp32 if is_float else layer.bytes_int8
    found[start : start + len(_PARTS)] = (_count_macs(layer), size, layer.weights * (4 if is_float else 1), 1)
    return found


def _count_macs(layer: LayerCost) -> float:
    if layer.kind != "depthwise conv" or not layer.groups:
        return layer.macs
    return layer.macs * -(-layer.groups // _BLOCK) * _BLOCK / layer.groups


def describe_rest(layers: Sequence[LayerCost], *, is_float: bool) -> NDArray[np.float64]:
    """What the time of a network outside its layers is predicted from (conversions, starts), as ``FINE``."""
    found = np.zeros(len(FINE))
    size = sum(layer.bytes_fp32 if is_float else layer.bytes_int8 for layer in layers)
    found[-len(_REST) :] = (1, size, len(layers))
    return found


def describe_network(layers: Sequence[LayerCost], *, is_float: bool) -> NDArray[np.float64]:
    """A whole network's numbers: those of its layers and of the rest, added up."""
    rows = [describe_layer(layer, is_float=is_float) for layer in layers]
    total: NDArray[np.float64] = np.sum([*rows, describe_rest(layers, is_float=is_float)], axis=0, dtype=np.float64)
    return total


def describe_coarsely(layers: Sequence[LayerCost], *, is_float: bool) -> NDArray[np.float64]:
    """A whole network in the order of ``COARSE``."""
    return np.array(
        [
            sum(layer.macs for layer in layers if layer.kind in _DENSE),
            sum(layer.macs for layer in layers if layer.kind not in _DENSE),
            sum(layer.bytes_fp32 if is_float else layer.bytes_int8 for layer in layers),
            len(layers),
            1,
        ],
        dtype=np.float64,
    )
