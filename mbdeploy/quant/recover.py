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
from mbdeploy.quant.feedback import Rounded, find_partners, round_with_feedback
from mbdeploy.quant.frontier import Frontier
from mbdeploy.quant.gram import Gram, Moments, fix_targets, measure_error
from mbdeploy.quant.layers import Layer, read_weight, restore_order, view_reduction
from mbdeploy.quant.pairsafe import Floats
from mbdeploy.quant.patches import choose_positions, count_positions, read_window, take_outputs, take_patches
from mbdeploy.quant.qdq import Plan
from mbdeploy.quant.ranges import ActivationScale
from mbdeploy.quant.recipes import WeightScales, scale_pair_safe, scale_plainly, settle_scales
from mbdeploy.quant.refit import STRONGEST, add_ridge, choose_ridge, refit
from mbdeploy.quant.running import Batch, digest_image, open_session, run_session, split_images

#: Samples that a layer is fitted to, about: so many positions of each image, within bounds.
_SAMPLES = 8192
_FEWEST, _MOST = 16, 64
_AT_ONCE = 4  # images whose samples are added in one product
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
        shape = [1] * self.integers.ndim
        shape[layer.channel_axis] = -1
        return self.integers.astype(np.float32) * self.scales.reshape(shape)


class _Observed(msgspec.Struct, frozen=True):
    """Moments of a layer over all images and over either half of them (one, if the other is empty)."""

    groups: int
    whole: Moments
    halves: tuple[Moments, ...]


class _Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """Where a layer's output is looked at: its shape, and the file of the float model's values at those positions.

    ``number`` is the layer's; with an image's key (a digest of its content) it decides which positions are taken.
    """

    layer: Layer
    number: int
    limit: int
    file: Path
    shape: tuple[int, ...] = ()

    def choose(self, shape: tuple[int, ...], key: int) -> NDArray[np.int64]:
        return choose_positions(count_positions(shape, self.layer), self.limit, (self.number, key))


def recover(
    model: onnx.ModelProto,
    placed: onnx.ModelProto,
    plan: Plan,
    activations: Mapping[str, ActivationScale],
    weight_scales: WeightScales,
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
    ``weight_scales`` is the recipe's rule. ``batches`` hold ``images`` images. ``techniques`` are of ``refit``,
    ``feedback`` and ``bias``. ``folder`` takes scratch files.

    Raises:
        ModelError: the model does not run.
    """
    limit = min(max(_SAMPLES // images, _FEWEST), _MOST)
    frontier = Frontier(placed, [layer.node for layer in plan.layers], folder, threads)
    places = [
        _Sampled(layer=layer, number=number, limit=limit, file=folder / f"wanted_{number}.f32")
        for number, layer in enumerate(plan.layers)
    ]
    places, keys = _sample_outputs(model, places, frontier, batches, threads)
    nodes = {node.name: node for node in model.graph.node}
    found: dict[str, Recovered] = {}
    for place in places:
        layer, step = place.layer, activations[place.layer.input]
        frontier.advance()
        weight = read_weight(model, layer.weight)
        observed = None
        if frontier.is_quantized(layer.node):
            observed = _observe(frontier, nodes[layer.node], place, weight, step, keys)
        place.file.unlink()
        if observed is not None:
            found[layer.node] = _recover_layer(layer, weight, observed, weight_scales, step.scale, set(techniques))
            _store(frontier, layer, found[layer.node], step.scale)
        on_progress("recovering", place.number + 1, len(places))
    return found


def _sample_outputs(
    model: onnx.ModelProto, places: list[_Sampled], frontier: Frontier, batches: Iterable[Batch], threads: int
) -> tuple[list[_Sampled], list[int]]:
    """Run the float model once: its layers' outputs at sampled positions go to files, the images to the frontier.

    Answers with the shapes filled in, and the key of each image.
    """
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=place.layer.output) for place in places)
    session = open_session(watched, threads)
    source = session.get_inputs()[0].name
    shapes: list[tuple[int, ...]] = []
    keys: list[int] = []
    for image in split_images(session, batches):
        frontier.add_image(image)
        keys.append(digest_image(image))
        values = run_session(session, [place.layer.output for place in places], {source: image})
        shapes = [value.shape for value in values]
        for place, value in zip(places, values, strict=True):
            with place.file.open("ab") as stream:
                take_outputs(value, place.layer, place.choose(value.shape, keys[-1])).tofile(stream)
    return [msgspec.structs.replace(place, shape=shape) for place, shape in zip(places, shapes, strict=True)], keys


def _observe(
    frontier: Frontier,
    node: onnx.NodeProto,
    place: _Sampled,
    weight: NDArray[np.float32],
    step: ActivationScale,
    keys: list[int],
) -> _Observed | None:
    """The moments at the sampled positions, or None for a kind of layer unknown.

    An image's half depends on its key, so that the order of the images cannot matter.
    """
    view = view_reduction(weight, place.layer)
    targets, unit = fix_targets(np.fromfile(place.file, np.float32).reshape(len(keys), -1, len(view)))
    window = read_window(node, weight.shape, frontier.read_input(place.layer.node, 0).shape)
    if window is None:
        return None
    sizes = (window.groups, view[0].size, len(view) // window.groups)
    halves = (Gram(*sizes), Gram(*sizes))
    for number, half in enumerate(halves):
        members = [image for image, key in enumerate(keys) if key & 1 == number]
        for start in range(0, len(members), _AT_ONCE):
            chunk = members[start : start + _AT_ONCE]
            patches = [
                take_patches(
                    frontier.read_input(place.layer.node, image),
                    step.zero_point,
                    window,
                    place.choose(place.shape, keys[image]),
                    place.shape[-1],
                )
                for image in chunk
            ]
            half.update(np.concatenate(patches, axis=1), np.concatenate(targets[chunk]))
    whole = halves[0].merge(halves[1]).read(step.scale, unit)
    return _Observed(window.groups, whole, tuple(half.read(step.scale, unit) for half in halves if half.count))


def _recover_layer(
    layer: Layer,
    weight: NDArray[np.float32],
    observed: _Observed,
    weight_scales: WeightScales,
    input_scale: float,
    techniques: set[str],
) -> Recovered:
    view = view_reduction(weight, layer)
    moments = observed.whole
    original = view.reshape(observed.groups, len(view) // observed.groups, -1).astype(np.float64)

    def settle(rule: WeightScales, weights: Floats) -> Floats:
        bias = moments.target - (weights * moments.mean[:, np.newaxis]).sum(axis=-1)
        plain = rule(weights.reshape(view.shape).astype(np.float32), layer)
        settled = settle_scales(plain, bias.reshape(-1).astype(np.float32), input_scale)
        return settled.reshape(original.shape[:2]).astype(np.float64)

    ridge = choose_ridge(original, observed.halves) if "refit" in techniques else STRONGEST
    fitted = refit(original, moments, ridge) if ridge < STRONGEST else original
    before = _round_nearest(original, settle(weight_scales, original))
    if "feedback" in techniques:
        covariance = add_ridge(moments.covariance, min(ridge, _MOST_DAMPING))
        partners = find_partners(*view.shape[1:], paired=not layer.depthwise)
        rules = (scale_plainly,) if layer.depthwise else (scale_plainly, scale_pair_safe)
        after = _keep_better(
            *(round_with_feedback(fitted, covariance, settle(rule, fitted), partners) for rule in rules)
        )
    else:
        after = _round_nearest(fitted, settle(weight_scales, fitted))
    integers, scales = after.integers, after.scales
    values = integers * scales[..., np.newaxis]
    bias = moments.target - (values * moments.mean[:, np.newaxis]).sum(axis=-1)
    return Recovered(
        integers=restore_order(integers.reshape(view.shape), weight.shape, layer),
        scales=scales.reshape(-1).astype(np.float32),
        bias=bias.reshape(-1).astype(np.float32) if "bias" in techniques and layer.bias is not None else None,
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


def _store(frontier: Frontier, layer: Layer, made: Recovered, input_scale: float) -> None:
    frontier.store(layer.node, 1, made.integers, made.scales)
    if made.bias is not None:
        steps = made.scales * np.float32(input_scale)
        frontier.store(layer.node, 2, np.rint(made.bias / steps), steps)
