"""What will hurt at int8, from weights and, where calibration left them, ranges: rules MB202 to MB205."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mbdeploy.costs.graph import Node
from mbdeploy.costs.report import Evidence, Finding
from mbdeploy.costs.subject import Subject, Weights, say, worst_first
from mbdeploy.quant.layers import view_reduction
from mbdeploy.quant.pairsafe import INT8_MAX, find_clipping

#: Fewer levels than this for a channel's largest weight is too few (a per-tensor scale gives 127 to the best).
_FEW_LEVELS = 8.0
#: ReLU6's range, with which others are compared.
_SIX = 6.0
_UNBOUNDED = ("Relu", "LeakyRelu", "PRelu", "HardSwish", "Swish", "Elu", "Gelu", "Mish", "Softplus")
_INT32 = float(1 << 31)
#: Activations that span less than this are rare: a bias that needs more is reported even if the span is unknown.
_LIKELY_SPAN = 0.5
#: A bias above this share of int32 leaves too little to the sum of products; the default recipe stops at half.
_MOST_OF_INT32 = 0.501


def check_spread(subject: Subject) -> Finding | None:
    """Channels of a depthwise layer differ so much in range that one scale for all leaves the small ones no levels."""
    found, layers = [], 0
    for weights in subject.weights:
        if not weights.layer.depthwise or weights.values.dtype != np.float32:
            continue
        layers += 1
        largest = _largest_by_channel(weights)
        alive = largest[largest > 0]
        if alive.size == 0:
            continue
        few = int((INT8_MAX * alive / alive.max() < _FEW_LEVELS).sum())
        if few:
            spread = float(alive.max() / alive.min())
            dead = f", {largest.size - alive.size} all zero" if alive.size < largest.size else ""
            text = f"ranges spread {spread:.3g} x; {few} of {largest.size} channels keep fewer than 8 levels{dead}"
            found.append((spread, Evidence(node=weights.layer.node, text=text)))
    if not found:
        return None
    return Finding(
        rule="MB202",
        title="spread of depthwise weights",
        summary=f"{len(found)} of {say(layers, 'depthwise layer')} would lose channels to one scale per tensor",
        change="quantize weights per channel, as every recipe here does; never per tensor",
        evidence=_largest_first(found),
    )


def check_unbounded(subject: Subject) -> Finding | None:
    """An activation without an upper bound gets a scale as coarse as its largest outlier; ReLU6 stops at 6."""
    found, known = [], 0
    for node, layer in subject.pairs():
        if node.operator not in _UNBOUNDED:
            continue
        high = _find_high(subject, node)
        known += high is not None
        text = f"{node.operator}: {'range unknown' if high is None else _describe_loss(high)}"
        found.append((high or 0.0, Evidence(node=layer.name, text=text)))
    if not found:
        return None
    ranges = f"the ranges of {known} are known" if known else "their ranges are unknown until it is quantized"
    return Finding(
        rule="MB203",
        title="unbounded activations",
        summary=f"{say(len(found), 'activation')} without an upper bound; {ranges}",
        change="train with ReLU6, or choose ranges by --calibration-method percentile or mse"
        if known
        else "run `mbdeploy quantize` beside this file and inspect it again, or train with ReLU6",
        evidence=_largest_first(found),
    )


def check_clipping(subject: Subject) -> Finding | None:
    """Neighbouring u8 x s8 products overflow int16 on x86 without VNNI unless scales are pair-safe.

    A float file is judged as if quantized plainly (the largest weight of a channel is 127), a quantized
    one by its own integers.
    """
    found, looked_at = [], 0
    costs = {layer.name: layer for layer in subject.counted.layers}
    for weights in subject.weights:
        layer, is_float = weights.layer, weights.values.dtype == np.float32
        if layer.depthwise or not (is_float or (weights.values.dtype == np.int8 and subject.has_unsigned_activations)):
            continue
        looked_at += 1
        view = view_reduction(weights.values, layer)
        clips = find_clipping(_quantize_plainly(view) if is_float else view)
        if clips.any():
            part = "" if weights.examined == weights.channels else f" looked at, of {weights.channels}"
            text = f"{clips.sum()} of {clips.size} channels{part}"
            found.append(Evidence(node=layer.node, text=text, macs=round(costs[layer.node].macs * clips.mean())))
    if not found:
        return None
    would = "give" if subject.is_quantized else "would give"
    return Finding(
        rule="MB204",
        title="saturation without VNNI",
        summary=f"{len(found)} of {say(looked_at, 'layer')} {would} other answers on x86 without VNNI than on ARM",
        change="quantize with --recipe accurate (the default) or portable: no pair of theirs can clip",
        evidence=worst_first(found, key=lambda evidence: evidence.macs),
    )


def check_bias(subject: Subject) -> Finding | None:
    """A bias divided by (input scale x weight scale) must fit int32; tiny weights in a channel make it overflow."""
    found = []
    for weights in subject.weights:
        if weights.bias is None:
            continue
        judge = _judge_float_bias if weights.values.dtype == np.float32 else _judge_int_bias
        size, text = judge(subject, weights, weights.bias)
        if text:
            found.append((size, Evidence(node=weights.layer.node, text=text)))
    if not found:
        return None
    return Finding(
        rule="MB205",
        title="int32 bias overflow",
        summary=f"{say(len(found), 'layer')} with channels whose bias may not fit int32 beside tiny weights",
        change="quantize with mbdeploy, which widens these channels' scales; other quantizers wrap the bias",
        evidence=_largest_first(found),
    )


def _quantize_plainly(view: NDArray[Any]) -> NDArray[np.int8]:
    flat = view.reshape(len(view), -1)
    largest = np.maximum(flat.max(axis=1), -flat.min(axis=1))
    factors = np.float32(INT8_MAX) / np.where(largest > 0, largest, np.float32(1))
    scaled = view * factors[:, np.newaxis, np.newaxis]
    return np.asarray(np.rint(scaled, out=scaled), np.int8)


def _largest_by_channel(weights: Weights) -> NDArray[np.float64]:
    others = tuple(axis for axis in range(weights.values.ndim) if axis != weights.layer.channel_axis)
    largest = np.maximum(weights.values.max(axis=others), -weights.values.min(axis=others))
    return np.asarray(largest, np.float64)


def _judge_float_bias(subject: Subject, weights: Weights, bias: NDArray[Any]) -> tuple[float, str]:
    largest = _largest_by_channel(weights)
    alive = largest > 0  # a channel without weights gets whatever scale its bias wants
    # The bias overflows where the input's scale is below this; a scale is a span over 255.
    limits = np.abs(bias.astype(np.float64)[alive]) / (largest[alive] / INT8_MAX * _INT32)
    smallest = 255 * float(limits.max(initial=0.0))
    record = subject.records.get(weights.layer.node)
    span = None if record is None else record.input_range[1] - record.input_range[0]
    if smallest <= (_LIKELY_SPAN if span is None else span):
        return 0.0, ""
    seen = "unknown" if span is None else f"{span:.3g}"
    return smallest, f"overflows if the input spans less than {smallest:.3g}; its span is {seen}"


def _judge_int_bias(subject: Subject, weights: Weights, bias: NDArray[Any]) -> tuple[float, str]:
    largest = float(np.abs(bias.astype(np.float64)).max(initial=0.0)) if bias.dtype == np.int32 else 0.0
    return (largest, f"a bias of {largest / _INT32:.0%} of int32") if largest > _MOST_OF_INT32 * _INT32 else (0.0, "")


def _largest_first(found: list[tuple[float, Evidence]]) -> tuple[Evidence, ...]:
    return tuple(evidence for _, evidence in sorted(found, key=lambda pair: pair[0], reverse=True))


def _find_high(subject: Subject, node: Node) -> float | None:
    """The largest value that calibration saw behind an activation: the quantizer merges it into the layer before."""
    before = subject.graph.producers.get(node.inputs[0])
    record = None if before is None else subject.records.get(before.name)
    return None if record is None else record.output_range[1]


def _describe_loss(high: float) -> str:
    if not high > 0:
        return "it is never above 0"
    bits = math.log2(high / _SIX)
    change = f"{bits:.1f} bits coarser than" if bits > 0 else f"{-bits:.1f} bits finer than"
    fp16 = 2.0 ** (math.floor(math.log2(high)) - 10)
    return f"up to {high:.3g}, int8 step {high / 255:.2g} ({change} ReLU6), fp16 step {fp16:.2g} there"
