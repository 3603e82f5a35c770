"""Place Q/DQ pairs with ONNX Runtime's own quantizer, from scales that we computed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbdeploy.quant.gates import Gate, find_gates, fold_gates
from mbdeploy.quant.heads import find_heads
from mbdeploy.quant.joining import find_joined
from mbdeploy.quant.keeping import add_followers
from mbdeploy.quant.layers import Layer, find_layers, spread_scales
from mbdeploy.quant.ranges import ActivationScale
from mbdeploy.quant.recipes import Recipe

#: Operators with an int8 kernel in ONNX Runtime's CPU provider, or that pass int8 through unchanged.
QUANTIZED_OPERATORS = (
    "Conv Gemm MatMul Add Mul Concat Clip Relu LeakyRelu Sigmoid GlobalAveragePool AveragePool MaxPool "
    "Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Gather Resize Pad"
).split()
_ASKED_FOR = "kept in float, as asked"
_HEAD = "kept in float: part of a head whose boxes and scores no scale of 8 bits suits both"
_JOINED = "kept in float: its neighbours have no int8 kernel"
_UNSCALED = "no int8 kernel, and no scale that makes it bytes: activations are signed, or their range is too wide"
_REMOVABLE = ("Clip", "Relu")
_SHARES_INPUT_SCALE = (
    "Reshape Flatten Transpose Squeeze Unsqueeze Slice Split Gather MaxPool AveragePool Resize".split()
)
_FLOAT_REASONS = {
    "HardSigmoid": "no int8 kernel; bytes do for it only where it is 1/2 at 0, between int8 tensors with own scales",
    "PRelu": "no int8 kernel in ONNX Runtime's CPU provider",
    "Gelu": "no int8 kernel in ONNX Runtime's CPU provider",
    "ConvTranspose": "no int8 kernel in ONNX Runtime's CPU provider",
    "BatchNormalization": "follows no convolution that can take it in, or `mbdeploy simplify` did not run",
    "ReduceMean": "only global average pooling has an int8 kernel; run `mbdeploy simplify` first",
    "Softmax": "kept in float: probabilities need more than 8 bits",
}


class Plan:
    """Which nodes of a prepared model become int8, which tensors carry scales, and why the rest stays in float."""

    def __init__(self, model: onnx.ModelProto, keep_float: Collection[str] = ()) -> None:
        self.model = model
        self.layers = find_layers(model)
        asked = add_followers(model, keep_float)
        self.excluded = dict.fromkeys(asked, _ASKED_FOR)
        weighted = {layer.node for layer in self.layers}
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if reason := _find_reason(node, weighted, constants):
                self.excluded[node.name] = reason
        for name in find_joined(model, self.excluded.keys() - asked):
            self.excluded.setdefault(name, _JOINED)
        for name in find_heads(model):
            self.excluded.setdefault(name, _HEAD)
        self.layers = [layer for layer in self.layers if layer.node not in self.excluded]
        self.shares = _find_shared(model, self.excluded)
        self.tensors = _find_tensors(model, self.excluded, self.shares)
        self.gates = [gate for gate in self._choose_gates() if gate.node not in asked]
        for gate in self.gates:
            del self.excluded[gate.node]

    def list_corrected_inputs(self) -> list[str]:
        """Inputs of the layers that have a bias to correct, each once."""
        return list(dict.fromkeys(layer.input for layer in self.layers if layer.bias is not None))

    def list_float(self, placed: onnx.ModelProto) -> dict[str, str]:
        """Why nodes stay in float, once it is placed: a gate does, too, where scales left it as it was.

        What computes shapes and indices is not in float.
        """
        left = {node.name for node in placed.graph.node if node.op_type == "HardSigmoid"}
        others = {
            value.name
            for value in self.model.graph.value_info
            if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT
        }
        integers = {node.name for node in self.model.graph.node if {*node.output} <= others}
        excluded = {name: reason for name, reason in self.excluded.items() if name not in integers}
        return {**excluded, **{gate.node: _UNSCALED for gate in self.gates if gate.node in left}}

    def _choose_gates(self) -> list[Gate]:
        """Gates between tensors with scales of their own, which a merged Clip or Relu does not need as they are.

        Of gates on one input, those with the slope of the first: its scale suits one slope only.
        """
        removable = (node for node in self.model.graph.node if node.op_type in _REMOVABLE)
        merged = {node.output[0] for node in removable if self.shares.get(node.input[0]) == node.output[0]}
        free = set(self.tensors) - merged
        gates = [gate for gate in find_gates(self.model) if {gate.input, gate.output} <= free]
        slopes: dict[str, float] = {}
        return [gate for gate in gates if slopes.setdefault(gate.input, gate.alpha) == gate.alpha]

    def provider_of(self, tensor: str) -> str:
        """The tensor whose scale this one takes over: itself, unless it is merged or only passed on."""
        while tensor in self.shares:
            tensor = self.shares[tensor]
        return tensor


def place_qdq(
    plan: Plan,
    recipe: Recipe,
    activations: Mapping[str, ActivationScale],
    weights: Mapping[str, NDArray[np.float32]],
) -> onnx.ModelProto:
    """The model with Q/DQ pairs. ``activations`` is by tensor; ``weights`` the scales per channel, by weight."""
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    activation_type = QuantType.QInt8 if recipe.signed_activations else QuantType.QUInt8
    weight_type = QuantType.QInt8 if recipe.signed_weights else QuantType.QUInt8
    weight_zero = np.array(0, np.int8) if recipe.signed_weights else np.array(128, np.uint8)
    axes = {layer.weight: layer.channel_axis for layer in plan.layers}
    overrides: dict[str, list[dict[str, Any]]] = {
        name: [
            {"axis": axes[name], "scale": scale, "zero_point": weight_zero, "quant_type": weight_type}
            for scale in np.asarray(scales, np.float32)
        ]
        for name, scales in weights.items()
    }
    zero_type = np.int8 if recipe.signed_activations else np.uint8
    ranges = {}
    for tensor, chosen in activations.items():
        overrides[tensor] = [
            {"scale": np.array(chosen.scale, np.float32), "zero_point": np.array(chosen.zero_point, zero_type)}
        ]
        ranges[tensor] = TensorData(lowest=np.float32(chosen.low), highest=np.float32(chosen.high))
    quantizer = QDQQuantizer(
        plan.model,
        per_channel=True,
        reduce_range=False,
        weight_qType=weight_type,
        activation_qType=activation_type,
        tensors_range=ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=list(plan.excluded),
        op_types_to_quantize=QUANTIZED_OPERATORS,
        extra_options={
            "TensorQuantOverrides": overrides,
            "ActivationSymmetric": recipe.signed_activations,
            "WeightSymmetric": True,
            "QDQDisableWeightAdjustForInt32Bias": True,  # settle_scales has seen to it
        },
    )
    quiet = logging.getLogger()
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        placed: onnx.ModelProto = quantizer.quantize_model()
        fold_gates(placed)
        quantizer.model.topological_sort()  # as the specification demands, and ONNX Runtime does not
    finally:
        quiet.setLevel(level)
    return placed


def round_weights(weight: NDArray[np.float32], scales: NDArray[np.float32], layer: Layer) -> NDArray[np.int32]:
    """The integers that ``place_qdq`` will store for a weight, zero point taken off, in the weight's own shape."""
    rounded = np.clip(np.rint(weight / spread_scales(scales, layer, weight.ndim)), -128, 127)
    return np.asarray(rounded, np.int32)


def _find_reason(node: onnx.NodeProto, weighted: set[str], constants: Mapping[str, onnx.TensorProto]) -> str:
    """Why a node stays in float; an empty string if it does not."""
    if node.op_type in ("Conv", "Gemm", "MatMul") and node.name not in weighted:
        return "its weight is no constant of float32"
    if node.op_type == "Clip" and not _clip_holds_zero(node, constants):
        return "its range leaves out zero, or is not constant, so that it cannot merge into a scale"
    if node.op_type not in QUANTIZED_OPERATORS:
        return _FLOAT_REASONS.get(node.op_type, f"{node.op_type} is not among the operators quantized")
    return ""


def _clip_holds_zero(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    bounds = [-np.inf, np.inf]
    for slot in (1, 2):
        name = node.input[slot] if len(node.input) > slot else ""
        if name and name not in constants:
            return False
        if name:
            bounds[slot - 1] = float(numpy_helper.to_array(constants[name]))
    return bounds[0] <= 0 <= bounds[1]


def _find_shared(model: onnx.ModelProto, excluded: Mapping[str, str]) -> dict[str, str]:
    """Tensors that take another one's scale: inputs of a Clip or Relu that will be merged, and passed-on int8."""
    consumers = Counter(name for node in model.graph.node for name in node.input)
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    shares = {}
    for node in model.graph.node:
        if node.name in excluded:
            continue
        if node.op_type in _REMOVABLE and consumers[node.input[0]] == 1 and node.input[0] not in fixed:
            shares[node.input[0]] = node.output[0]
        elif node.op_type in _SHARES_INPUT_SCALE:
            for output in node.output:
                shares.setdefault(output, node.input[0])
    return shares


def _find_tensors(model: onnx.ModelProto, excluded: Mapping[str, str], shares: Mapping[str, str]) -> list[str]:
    """Every activation that a quantized node reads or writes and that has a scale of its own."""
    constants = {tensor.name for tensor in model.graph.initializer} | {""}
    floats = {
        value.name
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    }
    found: dict[str, None] = {}
    for node in model.graph.node:
        if node.name in excluded:
            continue
        data_inputs = node.input if node.op_type in ("Add", "Mul", "Concat", "MatMul") else node.input[:1]
        for tensor in (*data_inputs, *node.output):
            if tensor in floats and tensor not in constants and tensor not in shares:
                found[tensor] = None
    return list(found)
