"""Which layer of the float model an 8-bit product was made from: told by the values of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx

from mbdeploy.auditing.products import Product
from mbdeploy.errors import ModelError
from mbdeploy.quant.layers import find_layers, read_weight, view_reduction
from mbdeploy.quant.pairsafe import Floats
from mbdeploy.quant.prepare import prepare_model

#: Weights on one scale for all may be off by more than this share of their energy; other weights are off by twice it.
_MOST_ERROR = 0.25


class Candidate(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A float layer's weights, as ``layers.view_reduction`` gives them."""

    node: str
    is_conv: bool
    depthwise: bool
    view: Floats


def list_candidates(model: onnx.ModelProto) -> list[Candidate]:
    """Every layer of a float model that a product may have been made from."""
    prepared = prepare_model(model)
    return [
        Candidate(
            node=layer.node,
            is_conv=layer.operator == "Conv",
            depthwise=layer.depthwise,
            view=view_reduction(read_weight(prepared, layer.weight), layer).astype(np.float64),
        )
        for layer in find_layers(prepared)
    ]


def match_weights(product: Product, candidates: Sequence[Candidate], where: Path) -> Floats:
    """The float weights of a product, as its ``view``.

    Rules: 1. only layers of its kind and shape count; of them, the one whose weights are closest. 2. It must be
    closer than a quarter of the weights' energy: quantization is, another layer is not. Layers with equal weights
    are alike.

    Raises:
        ModelError: none is close: the file was made from another model, or its weights were changed first.
    """
    stored = product.dequantize()
    is_conv = product.layer.operator == "Conv"
    closest, error = None, np.inf
    for candidate in candidates:
        if candidate.is_conv != is_conv or candidate.view.shape != stored.shape:
            continue
        energy = float((candidate.view**2).sum())
        off = float(((candidate.view - stored) ** 2).sum()) / energy if energy > 0 else np.inf
        if off < error:
            closest, error = candidate, off
    if closest is None or not error < _MOST_ERROR:
        found = "no layer of its shape" if closest is None else f"{closest.node}, off by {error:.0%} of its energy"
        raise ModelError(
            where=where,
            expected=f"the float weights of {product.layer.node} {list(stored.shape)}",
            found=found,
            todo="give the very float file that was quantized, or leave out --against",
        )
    return closest.view
