"""Recover what 8-bit weights and activations lose: choose each layer's integers for the inputs it will really get.

Layer after layer in the order of the graph, on calibration images that have been run through the layers before it in
their final 8-bit form: 1. its weights are fitted anew (``refit``), 2. rounded with feedback under the pair constraint
(``feedback``), 3. its bias takes up the mean error that is left. Scales of activations stay, and so does the speed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.isolate import Progress
from mbdeploy.quant.feedback import Rounded, round_with_feedback
from mbdeploy.quant.frontier import Frontier
from mbdeploy.quant.gram import Moments, measure_error
from mbdeploy.quant.layers import Layer, read_weight, restore_order, spread_scales, view_reduction
from mbdeploy.quant.observing import Observed, observe_layer, place_samples, sample_outputs
from mbdeploy.quant.pairsafe import Floats, find_partners
from mbdeploy.quant.qdq import Plan
from mbdeploy.quant.ranges import ActivationScale
from mbdeploy.quant.recipes import Recipe, WeightScales, scale_plainly, settle_scales
from mbdeploy.quant.refit import STRONGEST, add_ridge, choose_ridge, refit
from mbdeploy.quant.running import Batch

#: Of the covariance, when rounding: a ridge beyond it would turn feedback into plain rounding.
_MOST_DAMPING = 1.0
_TINY = 1e-30


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's new constants: ``integers`` in the weight's shape, ``scales`` one a channel, ``bias`` in real units.

    ``bias`` is None where it stays, or there is none. ``before_db`` and ``after_db`` are the SQNR of the layer's
    output against the float model's, both from the same quantized inputs: with its weights rounded to nearest, and
    with these.
    """

    integers: NDArray[np.int32]
    scales: NDArray[np.float32]
    bias: NDArray[np.float32] | None
    before_db: float
    after_db: float

    def dequantize(self, layer: Layer) -> NDArray[np.float32]:
        """The weight as float32, on the grid."""
        return self.integers.astype(np.float32) * spread_scales(self.scales, layer, self.integers.ndim)


def recover(
    model: onnx.ModelProto,
    placed: onnx.ModelProto,
    plan: Plan,
    activations: Mapping[str, ActivationScale],
    recipe: Recipe,
    batches: Iterable[Batch],
    *,
    images: int,
    techniques: Iterable[str],
    folder: Path,
    threads: int,
    on_progress: Progress,
) -> dict[str, Recovered]:
    """New constants for every layer that can be recovered, by node.

    ``model`` is the float model and ``placed`` the same with Q/DQ pairs (its constants are overwritten).
    ``recipe`` has the rule for scales. ``batches`` hold ``images`` images. ``techniques`` are of ``refit``,
    ``feedback`` and ``bias``. ``folder`` takes scratch files.

    Raises:
        ModelError: the model does not run.
    """
    frontier = Frontier(placed, [layer.node for layer in plan.layers], folder, threads)
    places = place_samples(plan.layers, images, folder)
    places, keys = sample_outputs(model, places, frontier, batches, threads)
    nodes = {node.name: node for node in model.graph.node}
    found: dict[str, Recovered] = {}
    for place in places:
        layer, step = place.layer, activations[place.layer.input]
        frontier.advance()
        weight = read_weight(model, layer.weight)
        offsets = read_weight(model, layer.bias) if layer.bias else None
        observed = None
        if frontier.is_quantized(layer.node):
            observed = observe_layer(frontier, nodes[layer.node], place, weight, step, keys)
        place.file.unlink()
        if observed is not None:
            made = _recover_layer(layer, weight, offsets, observed, recipe, step.scale, set(techniques))
            _store(frontier, layer, made, offsets, step.scale)
            found[layer.node] = made
        on_progress("recovering", place.number + 1, len(places))
    return found


def _recover_layer(
    layer: Layer,
    weight: NDArray[np.float32],
    offsets: NDArray[np.float32] | None,
    observed: Observed,
    recipe: Recipe,
    input_scale: float,
    techniques: set[str],
) -> Recovered:
    view = view_reduction(weight, layer)
    original = view.reshape(observed.groups, len(view) // observed.groups, -1).astype(np.float64)
    shifting = "bias" in techniques and offsets is not None
    if not shifting:  # then the weights answer for the mean error, too
        fixed = np.zeros(len(view)) if offsets is None else offsets.astype(np.float64)
        observed = observed.hold_bias(fixed.reshape(original.shape[:2]))
    moments = observed.whole

    def find_bias(weights: Floats) -> Floats:
        best = moments.target - (weights * moments.mean[:, np.newaxis]).sum(axis=-1)
        return best.reshape(-1) if shifting else fixed

    def settle(rule: WeightScales, weights: Floats) -> Floats:
        plain = rule(weights.reshape(view.shape).astype(np.float32), layer)
        settled = settle_scales(plain, find_bias(weights).astype(np.float32), input_scale)
        return settled.reshape(original.shape[:2]).astype(np.float64)

    ridge = choose_ridge(original, observed.halves)
    fitted = refit(original, moments, ridge) if "refit" in techniques and ridge < STRONGEST else original
    before = _round_nearest(original, settle(recipe.weight_scales, original))
    if "feedback" in techniques:
        covariance = add_ridge(moments.covariance, min(ridge, _MOST_DAMPING))
        partners = find_partners(*view.shape[1:], paired=recipe.pair_safe and not layer.depthwise)
        rules = (scale_plainly,) if layer.depthwise else (scale_plainly, recipe.weight_scales)  # both are safe here
        after = _keep_better(
            *(round_with_feedback(fitted, covariance, settle(rule, fitted), partners) for rule in rules)
        )
    else:
        after = _round_nearest(fitted, settle(recipe.weight_scales, fitted))
    integers, scales = after.integers, after.scales
    values = integers * scales[..., np.newaxis]
    return Recovered(
        integers=restore_order(integers.reshape(view.shape), weight.shape, layer),
        scales=scales.reshape(-1).astype(np.float32),
        bias=find_bias(values).astype(np.float32) if shifting else None,
        before_db=_compare(before.integers * before.scales[..., np.newaxis], moments),
        after_db=_compare(values, moments),
    )


def _round_nearest(weights: Floats, scales: Floats) -> Rounded:
    integers = np.clip(np.rint(weights / scales[..., np.newaxis]), -128, 127).astype(np.int32)
    return Rounded(integers, scales, np.zeros(scales.shape))


def _keep_better(first: Rounded, *others: Rounded) -> Rounded:
    """Row by row the rounding of least error."""
    for other in others:
        better = other.error < first.error
        first = Rounded(
            np.where(better[..., np.newaxis], other.integers, first.integers),
            np.where(better, other.scales, first.scales),
            np.minimum(other.error, first.error),
        )
    return first


def _compare(weights: Floats, moments: Moments) -> float:
    """SQNR of a layer's output in dB, the means of both outputs being equal."""
    signal, noise = moments.variance.sum(), measure_error(weights, moments).sum()
    return float(10 * np.log10(max(signal, _TINY) / max(noise, _TINY)))


def _store(
    frontier: Frontier, layer: Layer, made: Recovered, offsets: NDArray[np.float32] | None, input_scale: float
) -> None:
    """Hand a layer's new constants on; a bias that stays needs other integers all the same, since the scales moved."""
    frontier.store(layer.node, 1, made.integers, made.scales)
    bias = offsets if made.bias is None else made.bias
    if bias is not None:
        steps = made.scales * np.float32(input_scale)
        frontier.store(layer.node, 2, np.rint(bias.reshape(-1) / steps), steps)
