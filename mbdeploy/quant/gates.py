"""Hard sigmoid in integers: it is linear between two clips, so its output is its input's bytes at another scale.

HardSigmoid(x) = clip(alpha x + beta, 0, 1). With the scale of x chosen so that beta / alpha is a whole number k of its
steps, byte q stands for x = s (q - z) and as well for alpha x + beta = alpha s (q - (z - k)); a Clip on bytes does the
rest. So no byte is computed anew, no rounding is added, and squeeze-and-excite and h-swish (x HardSigmoid(x), Howard
et al., arXiv:1905.02244) leave no float operator behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, MutableMapping

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from mbdeploy.model_file import list_readers
from mbdeploy.quant.ranges import ActivationScale

_LEVELS = 255
#: A scale is float32, so that the bend is off a whole step by no more than this; anything further is another scale.
_SLACK = 1e-4


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """A HardSigmoid: its node, tensors and slope. ``alone`` if nothing reads its input beyond where it is 0."""

    node: str
    input: str
    output: str
    alpha: float
    alone: bool


class _Spot(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A Dequantize - HardSigmoid - Quantize that bytes can do: its nodes, and the least and the greatest byte."""

    before: onnx.NodeProto
    node: onnx.NodeProto
    after: onnx.NodeProto
    least: int
    most: int


def find_gates(model: onnx.ModelProto) -> list[Gate]:
    """Every HardSigmoid whose output is one half at zero, as h-swish and squeeze-and-excite have it.

    Then 1 is a whole number of steps, too. Its input is ``alone`` if only HardSigmoids, and products with what they
    make of it, read it: then all that lies below the bend comes to 0 anyway, and needs no levels.
    """
    readers = list_readers(model.graph)
    outputs = {value.name for value in model.graph.output}
    gates = []
    for node in model.graph.node:
        alpha, beta = read_slope(node)
        if node.op_type != "HardSigmoid" or beta != 0.5 or alpha <= 0:
            continue
        source, made = node.input[0], node.output[0]
        alone = source not in outputs and all(
            reader.output[0] == made or (reader.op_type == "Mul" and set(reader.input) == {source, made})
            for reader in readers[source]
        )
        gates.append(Gate(node=node.name, input=source, output=made, alpha=alpha, alone=alone))
    return gates


def read_slope(node: onnx.NodeProto) -> tuple[float, float]:
    """A HardSigmoid's alpha and beta."""
    given = {item.name: item.f for item in node.attribute}
    return given.get("alpha", 0.2), given.get("beta", 0.5)


def scale_gates(gates: list[Gate], scales: MutableMapping[str, ActivationScale]) -> None:
    """Put the scales that ``gates`` want of their inputs and outputs in place of the chosen ones, where there are any.

    Gates on one input have one slope (``Plan`` sees to it), and so one pair of scales.
    """
    settled: dict[str, ActivationScale] = {}
    for gate in gates:
        if gate.input not in settled and (found := scale_gate(gate, scales[gate.input])):
            scales[gate.input], settled[gate.input] = found
        if gate.input in settled:
            scales[gate.output] = settled[gate.input]


def scale_gate(gate: Gate, chosen: ActivationScale) -> tuple[ActivationScale, ActivationScale] | None:
    """Scales of the gate's input and output, for the input's range; None if it spans too much for a step to matter.

    The input's range is widened to hold the bend, or cut there if the gate is ``alone``. It ends at ``chosen.high``
    or up to one step (half a step less, where the zero point is rounded up) beyond.
    """
    bend = -0.5 / gate.alpha
    low = bend if gate.alone else min(chosen.low, bend)
    steps = math.floor(-bend * _LEVELS / (max(chosen.high, 0.0) - low))
    if steps < 1:
        return None
    scale = float(np.float32(-bend / steps))
    zero = steps if gate.alone else min(round(-low / scale), _LEVELS)
    source = ActivationScale(scale=scale, zero_point=zero, low=-zero * scale, high=(_LEVELS - zero) * scale)
    step = float(np.float32(0.5 / steps))
    return source, ActivationScale(scale=step, zero_point=zero - steps, low=0.0, high=1.0)


def fold_gates(placed: onnx.ModelProto) -> None:
    """Replace Dequantize - HardSigmoid - Quantize by a Clip on the bytes wherever the scales allow it, in place.

    A bound that no byte passes is left out; without any, the Clip (of opset 12 and later for bytes) is an Identity.
    """
    graph = placed.graph
    spots = list(_find_spots(placed))
    for spot in spots:
        bounds = []
        for name, value in (("least", spot.least), ("most", spot.most)):
            bounds.append(f"{spot.node.output[0]}_{name}" if 0 < value < _LEVELS else "")
            if bounds[-1]:
                graph.initializer.append(numpy_helper.from_array(np.array(value, np.uint8), bounds[-1]))
        operator = "Clip" if any(bounds) else "Identity"
        inputs = [spot.before.input[0], *(bounds if bounds[1] else bounds[:1] if bounds[0] else ())]
        spot.node.CopyFrom(helper.make_node(operator, inputs, spot.after.output, spot.node.name))
        graph.node.remove(spot.after)
    needed = {value.name for value in graph.output}.union(*(node.input for node in graph.node))
    for made, before in {spot.before.output[0]: spot.before for spot in spots}.items():
        if made not in needed:
            graph.node.remove(before)


def _find_spots(placed: onnx.ModelProto) -> Iterator[_Spot]:
    constants = {tensor.name: tensor for tensor in placed.graph.initializer}
    producers = {name: node for node in placed.graph.node for name in node.output}
    readers = list_readers(placed.graph)
    for gate in find_gates(placed):
        before, after = producers.get(gate.input), readers.get(gate.output, [])
        if before is None or before.op_type != "DequantizeLinear" or [n.op_type for n in after] != ["QuantizeLinear"]:
            continue
        found, wanted = _read_scale(before, constants), _read_scale(after[0], constants)
        if found is None or wanted is None:
            continue
        steps = round(0.5 / gate.alpha / found[0])
        fits = _is_near(0.5 / gate.alpha / found[0], steps) and _is_near(0.5 / wanted[0], steps)
        if fits and wanted[1] == found[1] - steps:
            yield _Spot(
                before=before,
                node=producers[gate.output],
                after=after[0],
                least=wanted[1],
                most=wanted[1] + 2 * steps,
            )


def _is_near(value: float, steps: int) -> bool:
    return steps > 0 and abs(value - steps) < _SLACK * steps


def _read_scale(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[float, int] | None:
    """Scale and zero point of a Q or DQ; None if they are not constant, not one number, or not of uint8."""
    if len(node.input) < 3 or not {*node.input[1:3]} <= constants.keys():
        return None
    scale, zero = (numpy_helper.to_array(constants[name]) for name in node.input[1:3])
    return (float(scale), int(zero)) if scale.size == 1 and zero.dtype == np.uint8 else None
