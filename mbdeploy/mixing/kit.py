"""What mixed files are made from: a prepared model with its own weights and with its 8-bit ones, and all scales."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mbdeploy.model_file import copy_model, load_model, save_model
from mbdeploy.preflight.arrays import opening_arrays
from mbdeploy.quant import qdq
from mbdeploy.quant.layers import spread_scales
from mbdeploy.quant.ranges import ActivationScale
from mbdeploy.quant.recipes import Recipe, find_recipe
from mbdeploy.quant.widen_image import widen


class Kit(msgspec.Struct, frozen=True, eq=False):
    """``floats`` holds the weights and biases as they were, ``settled`` as the quantizer takes
    them: biases corrected, weights to be rounded at ``weights`` if they do not lie on that grid already.

    ``activations`` is by tensor, ``weights`` the scales per channel, by weight, of all that can become int8.
    """

    floats: onnx.ModelProto
    settled: onnx.ModelProto
    recipe: Recipe
    activations: Mapping[str, ActivationScale]
    weights: Mapping[str, NDArray[np.float32]]


class Placer:
    """Makes mixed models from a kit.

    Rounding weights channel by channel is what takes the quantizer its time, and the result is the same in every mix:
    so it happens once, and each mix is placed on a skeleton with one channel a weight, then given its constants.
    """

    def __init__(self, kit: Kit) -> None:
        plan = qdq.Plan(copy_model(kit.settled))
        placed = qdq.place_qdq(plan, kit.recipe, kit.activations, kit.weights)
        self._constants = {tensor.name: tensor for tensor in placed.graph.initializer}
        self._readers = {
            node.name: node
            for node in placed.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0] in self._constants
        }
        self._constants.update((tensor.name, tensor) for tensor in kit.floats.graph.initializer)
        self._skeleton = copy_model(kit.floats)
        tensors = {tensor.name: tensor for tensor in self._skeleton.graph.initializer}
        for layer in plan.layers:
            for name in (layer.weight, layer.bias):
                if name is not None:
                    one = np.ones([1] * len(tensors[name].dims), np.float32)
                    tensors[name].CopyFrom(numpy_helper.from_array(one, name))
        # The quantizer's word for a model that needs no shape inference, which would not like the skeleton.
        self._skeleton.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
        self._kit = kit

    def place(self, keep_float: Collection[str]) -> onnx.ModelProto:
        """The model with these nodes in float and all else that can be in INT8, as ``quantize`` would write it."""
        kit = self._kit
        plan = qdq.Plan(copy_model(self._skeleton), keep_float)
        scales = {layer.weight: kit.weights[layer.weight][:1] for layer in plan.layers}
        placed = qdq.place_qdq(plan, kit.recipe, kit.activations, scales)
        for tensor in placed.graph.initializer:
            # What only this mix has is a scale where float becomes bytes, as behind a pool in float: right as it is.
            tensor.CopyFrom(self._constants.get(tensor.name, tensor))
        for node in placed.graph.node:
            if node.name in self._readers:  # over one channel they have no axis
                node.CopyFrom(self._readers[node.name])
        del placed.graph.value_info[:]
        widen(placed)
        return placed

    def place_alone(self, layers: Collection[str]) -> onnx.ModelProto:
        """The float model with nothing but these layers' weights, inputs and outputs on their 8-bit grids."""
        kit = self._kit
        model = copy_model(kit.floats)
        plan = qdq.Plan(model)
        settled = {tensor.name: tensor for tensor in kit.settled.graph.initializer}
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        rounded: dict[str, None] = {}
        for layer in plan.layers:
            if layer.node in layers:
                scales = kit.weights[layer.weight]
                integers = qdq.round_weights(numpy_helper.to_array(settled[layer.weight]), scales, layer)
                weight = integers.astype(np.float32) * spread_scales(scales, layer, integers.ndim)
                tensors[layer.weight].CopyFrom(numpy_helper.from_array(weight, layer.weight))
                if layer.bias is not None:
                    tensors[layer.bias].CopyFrom(settled[layer.bias])
                rounded.update(dict.fromkeys((plan.provider_of(layer.input), plan.provider_of(layer.output))))
        for number, name in enumerate(rounded):
            _round_tensor(model, name, f"rounded_{number}", kit)
        return model


def _round_tensor(model: onnx.ModelProto, name: str, prefix: str, kit: Kit) -> None:
    """Let all readers of a tensor read it from its 8-bit grid; a graph's output stays as it is."""
    chosen = kit.activations[name]
    kind = np.int8 if kit.recipe.signed_activations else np.uint8
    constants = [f"{prefix}_scale", f"{prefix}_zero"]
    for constant, value in zip(constants, (np.float32(chosen.scale), kind(chosen.zero_point)), strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), constant))
    for node in model.graph.node:
        for slot, source in enumerate(node.input):
            if source == name:
                node.input[slot] = f"{prefix}_real"
    pair = [
        helper.make_node("QuantizeLinear", [name, *constants], [f"{prefix}_byte"], f"{prefix}_quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{prefix}_byte", *constants], [f"{prefix}_real"], f"{prefix}_dequantize"
        ),
    ]
    maker = next((index for index, node in enumerate(model.graph.node) if name in node.output), -1)
    for offset, node in enumerate(pair, start=1):
        model.graph.node.insert(maker + offset, node)


def write_kit(folder: Path, kit: Kit) -> None:
    """Put a kit into a folder that exists."""
    save_model(kit.floats, folder / "floats.onnx")
    save_model(kit.settled, folder / "settled.onnx")
    np.savez(folder / "weights.npz", *kit.weights.values())
    plain = {
        "recipe": kit.recipe.name,
        "activations": msgspec.to_builtins(dict(kit.activations)),
        "weights": list(kit.weights),
    }
    (folder / "kit.json").write_bytes(msgspec.json.encode(plain))


def read_kit(folder: Path) -> Kit:
    """The kit that ``write_kit`` left there."""
    plain = msgspec.json.decode((folder / "kit.json").read_bytes())
    with opening_arrays(folder / "weights.npz") as arrays:
        values = arrays.read(*(f"arr_{index}" for index in range(len(plain["weights"]))))
        weights = dict(zip(plain["weights"], values, strict=True))
    return Kit(
        floats=load_model(folder / "floats.onnx"),
        settled=load_model(folder / "settled.onnx"),
        recipe=find_recipe(plain["recipe"]),
        activations=msgspec.convert(plain["activations"], dict[str, ActivationScale]),
        weights=weights,
    )
