"""The quantization recipes: a table of choices, so that a new one is one row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import metadata

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.errors import UsageError
from mbdeploy.quant.layers import Array, Layer
from mbdeploy.quant.pairsafe import Floats, pair_safe_scales, plain_scales

#: What a recipe can do beside choosing scales, and what each takes off the error.
TECHNIQUES = {
    "refit": "weights are fitted anew to give the float outputs from the quantized inputs (quant/refit.py)",
    "feedback": "the rounding error of a weight is made up for by those still to come (quant/feedback.py)",
    "bias": "the mean error of each output channel is taken off its bias (quant/bias.py, quant/recover.py)",
}

WeightScales = Callable[[Array, Layer], Floats]


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """How numbers become 8-bit: types of activations and weights, and the rule for weight scales.

    ``weight_scales`` maps a layer's weights, as (channels, positions, input channels), to one scale
    above zero per output channel. Weights are always symmetric: int8 around 0, or uint8 around 128.
    ``techniques`` are those of ``TECHNIQUES`` that it uses; with ``refit`` or ``feedback`` layers are treated one
    after the other on their quantized inputs (``quant/recover.py``), and ``pair_safe`` says whether these keep every
    neighbouring pair of weights from saturating, as kernels that add in pairs need. ``calibration_method`` chooses the
    ranges of activations where the user does not.
    """

    name: str
    summary: str
    signed_activations: bool
    signed_weights: bool
    weight_scales: WeightScales
    techniques: tuple[str, ...] = ("bias",)
    pair_safe: bool = True
    calibration_method: str = "minmax"


def scale_plainly(view: Array, layer: Layer) -> Floats:
    """The largest weight of a channel becomes 127."""
    return plain_scales(view)


def scale_pair_safe(view: Array, layer: Layer) -> Floats:
    """As plain as possible, but no neighbouring pair can saturate; depthwise kernels need no such care."""
    return plain_scales(view) if layer.depthwise else pair_safe_scales(view)


def scale_reduced(view: Array, layer: Layer) -> Floats:
    """The largest weight of a channel becomes 64: seven bits, as ``reduce_range`` of ONNX Runtime."""
    return plain_scales(view) * (127 / 64)


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="accurate",
            summary="as portable, with weights chosen for the inputs they will get; a minute rather than seconds",
            signed_activations=False,
            signed_weights=True,
            weight_scales=scale_pair_safe,
            techniques=("refit", "feedback", "bias"),
            calibration_method="mse",
        ),
        Recipe(
            name="portable",
            summary="u8 activations, s8 weights with pair-safe scales: the same answers with and without VNNI, on ARM",
            signed_activations=False,
            signed_weights=True,
            weight_scales=scale_pair_safe,
        ),
        Recipe(
            name="reduce-range",
            summary="u8 activations, 7-bit weights: safe without VNNI, and coarser",
            signed_activations=False,
            signed_weights=True,
            weight_scales=scale_reduced,
        ),
        Recipe(
            name="u8u8",
            summary="u8 activations, u8 weights: never saturates, slow on x86",
            signed_activations=False,
            signed_weights=False,
            weight_scales=scale_plainly,
        ),
        Recipe(
            name="s8s8-symmetric",
            summary="s8 activations around zero, s8 weights: what TensorRT wants",
            signed_activations=True,
            signed_weights=True,
            weight_scales=scale_plainly,
        ),
    )
}


def find_recipe(name: str) -> Recipe:
    """A recipe by name: ours, or one that another package brings by the entry point ``mbdeploy.recipes``."""
    if name in RECIPES:
        return RECIPES[name]
    for entry in metadata.entry_points(group="mbdeploy.recipes", name=name):
        loaded: Recipe = entry.load()
        return loaded
    raise UsageError(
        where=name,
        expected=f"a recipe ({', '.join(RECIPES)})",
        found="no such recipe",
        todo="choose one of these with --recipe",
    )


def list_techniques(recipe: Recipe, without: Sequence[str]) -> tuple[str, ...]:
    """The techniques of a recipe, less those that the user leaves out.

    Raises:
        UsageError: ``without`` names something else.
    """
    for name in without:
        if name not in TECHNIQUES:
            raise UsageError(
                where=name,
                expected=f"a technique ({', '.join(TECHNIQUES)})",
                found="no such technique",
                todo="leave out one of these with --without",
            )
    return tuple(name for name in recipe.techniques if name not in without)


#: A bias may use this much of int32; the rest is left to the sum of products (15 bits x up to 2^15 terms).
_BIAS_LIMIT = float(1 << 30)
_DEAD_CHANNEL = 1.0 / 127


def settle_scales(scales: Floats, bias: NDArray[np.float32] | None, input_scale: float) -> NDArray[np.float32]:
    """Make weight scales usable: float32, never zero, and no bias overflows int32 at ``scale * input_scale``.

    Rules: 1. an all-zero channel gets the scale 1/127. 2. scale >= |bias| / (input_scale * 2^30): the bias
    of a channel with tiny weights would wrap otherwise.
    """
    settled = np.where(scales > 0, scales, _DEAD_CHANNEL)
    if bias is not None:
        settled = np.maximum(settled, np.abs(bias.reshape(-1).astype(np.float64)) / (input_scale * _BIAS_LIMIT))
    smallest = float(np.finfo(np.float32).tiny)
    rounded: NDArray[np.float32] = np.maximum(settled, smallest).astype(np.float32)
    # Rounding to float32 may go down by half an ulp; a pair-safe scale must not.
    return np.where(rounded < settled, np.nextafter(rounded, np.float32(np.inf)), rounded)
