"""A quantized file as its products of 8-bit numbers: Q/DQ pairs around Conv, Gemm and MatMul, and QOperator nodes."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mbdeploy.auditing.constants import Place, Tensors
from mbdeploy.auditing.forms import FORMS, Form, trace_scale
from mbdeploy.errors import ModelError
from mbdeploy.quant.layers import Layer, find_layers, view_reduction

_FLOAT_FORMS = ("Conv", "Gemm", "MatMul")
_ATTRIBUTES = ("group", "transA", "transB")


class Product(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One Conv, Gemm or MatMul of 8-bit activations and stored 8-bit weights.

    ``integers`` are as stored, in the weight's own shape; ``scales`` (None where the file has none) and
    ``zeros`` are one a channel or one in all. ``places`` says by role (weight, weight_scale, weight_zero, bias,
    bias_scale) where it stands. ``input`` is the 8-bit tensor; ``kind`` as ``cpus.KINDS`` has it.
    """

    layer: Layer
    index: int
    form: str
    kind: str
    input: str
    input_scale: float | None
    input_zero: int | None
    integers: NDArray[Any]
    scales: NDArray[np.float64] | None
    zeros: NDArray[np.int64]
    bias: NDArray[np.int64] | None
    bias_scale: NDArray[np.float64] | None
    places: dict[str, Place]

    @property
    def channels(self) -> int:
        """How many output channels it has."""
        return int(self.integers.shape[self.layer.channel_axis])

    @property
    def per_channel(self) -> bool:
        """Whether weights have a scale for each output channel."""
        return self.scales is not None and self.scales.size == self.channels > 1

    @property
    def view(self) -> NDArray[Any]:
        """The stored integers as (channels, positions, input channels), the order in which kernels add."""
        return view_reduction(self.integers, self.layer)

    def spread(self, values: NDArray[Any]) -> NDArray[Any]:
        """Values one a channel, or one in all, as (channels, 1, 1) beside ``view``."""
        return np.asarray(np.broadcast_to(values.reshape(-1), self.channels)[:, np.newaxis, np.newaxis])

    def dequantize(self) -> NDArray[np.float64]:
        """The weights that the integers stand for, as ``view``; integers alone where the file has no scale."""
        centred = self.view.astype(np.float64) - self.spread(self.zeros)
        return np.asarray(centred if self.scales is None else centred * self.spread(self.scales))


class Reading(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a file holds: its products, why others cannot be judged, and products that are float in the file."""

    tensors: Tensors
    products: tuple[Product, ...]
    unjudged: dict[str, str]
    floats: dict[str, str]


def read_products(model: onnx.ModelProto, where: object) -> Reading:
    """Find every product of 8-bit numbers of a model.

    Raises:
        ModelError: a file without anything quantized, or with a tensor whose data do not fit its shape.
    """
    tensors = Tensors(model, where)
    unjudged: dict[str, str] = {}
    floats: dict[str, str] = {}
    found = []
    for index, node in enumerate(model.graph.node):
        raw = None
        if node.op_type in FORMS:
            raw = _read_integer(tensors, index, FORMS[node.op_type])
        elif node.op_type in _FLOAT_FORMS and node.domain in ("", "ai.onnx") and len(node.input) > 1:
            raw = _read_pairs(tensors, index, floats)
        if raw is not None:
            reason = _find_unread(tensors, raw)
            if reason:
                unjudged[tensors.name(index)] = reason
            else:
                found.append(raw)
    products = []
    for raw, layer in zip(found, _shape_layers(tensors, found), strict=True):
        reason = "a weight of more than two axes, or a transposed input"
        if layer is not None:
            reason = _find_misfit(tensors, layer, raw)
        if layer is None or reason:
            unjudged[tensors.name(raw["index"])] = reason
            continue
        named = msgspec.structs.replace(layer, node=tensors.name(raw["index"]))
        products.append(_make_product(tensors, named, raw))
    if not products and not unjudged and not any("Quantize" in node.op_type for node in model.graph.node):
        raise ModelError(
            where=where,
            expected="a quantized model",
            found="a float one: no Q/DQ pairs and no integer operators",
            todo="give the INT8 file, or make one with `mbdeploy quantize`",
        )
    return Reading(tensors=tensors, products=tuple(products), unjudged=unjudged, floats=floats)


def _read_integer(tensors: Tensors, index: int, form: Form) -> dict[str, Any]:
    slots = msgspec.structs.asdict(form)
    operator = slots.pop("operator")
    places = {role: (index, slot) for role, slot in slots.items() if tensors.operand(index, slot)}
    if form.weight_scale < 0:
        scale = trace_scale(tensors, index)
        places |= {"weight_scale": scale} if scale else {}
    return {"index": index, "operator": operator, "form": "QOperator", "axis": None, "places": places}


def _read_pairs(tensors: Tensors, index: int, floats: dict[str, str]) -> dict[str, Any] | None:
    node = tensors.nodes[index]
    pairs = [tensors.maker(name, "DequantizeLinear") for name in node.input]
    if pairs[1] is None or pairs[0] is None:
        floats[tensors.name(index)] = f"its {'weight' if pairs[1] is None else 'input'} is not quantized"
        return None
    places = {"input": (pairs[0], 0), "input_scale": (pairs[0], 1), "input_zero": (pairs[0], 2)}
    places |= {"weight": (pairs[1], 0), "weight_scale": (pairs[1], 1), "weight_zero": (pairs[1], 2)}
    if len(pairs) > 2 and pairs[2] is not None:
        places |= {"bias": (pairs[2], 0), "bias_scale": (pairs[2], 1)}
    axis = next((item.i for item in tensors.nodes[pairs[1]].attribute if item.name == "axis"), 1)
    places = {role: place for role, place in places.items() if tensors.operand(*place)}
    return {"index": index, "operator": node.op_type, "form": "QDQ", "axis": axis, "places": places}


def _find_unread(tensors: Tensors, raw: dict[str, Any]) -> str:
    """Why the weight of a product cannot be read; adds what was read to ``raw``."""
    if "weight" not in raw["places"] or "input" not in raw["places"]:
        return "it lacks inputs"
    raw["names"] = {role: tensors.operand(*place) for role, place in raw["places"].items()}
    raw["integers"] = integers = tensors.read(raw["names"]["weight"])
    if integers is None:
        return "its weight is no constant"
    if integers.dtype not in (np.int8, np.uint8):
        return f"its weights are of type {integers.dtype}"
    return "" if integers.ndim > 1 and integers.size else f"its weights have the shape {list(integers.shape)}"


def _shape_layers(tensors: Tensors, found: list[dict[str, Any]]) -> list[Layer | None]:
    """Every product as the float layer that it stands for; None for one that ``find_layers`` does not know."""
    skeleton = onnx.ModelProto()
    for raw in found:
        index, node = raw["index"], tensors.nodes[raw["index"]]
        attributes = {item.name: item.i for item in node.attribute if item.name in _ATTRIBUTES}
        inputs = [raw["names"]["input"], f"weight {index}"]
        skeleton.graph.node.append(helper.make_node(raw["operator"], inputs, node.output[:1], f"{index}", **attributes))
        dims = raw["integers"].shape
        skeleton.graph.initializer.add(name=inputs[1], data_type=TensorProto.FLOAT, dims=dims)
    layers = {layer.node: layer for layer in find_layers(skeleton)}
    return [layers.get(str(raw["index"])) for raw in found]


def _make_product(tensors: Tensors, layer: Layer, raw: dict[str, Any]) -> Product:
    names = raw["names"]
    values = {role: tensors.read(name) for role, name in names.items() if role != "input"}
    bias = values.get("bias")
    zero = _single(values.get("input_zero"))
    return Product(
        layer=layer,
        index=raw["index"],
        form=raw["form"],
        kind=_name_kind(tensors, raw),
        input=names["input"],
        input_scale=_single(values.get("input_scale")),
        input_zero=0 if "input_zero" not in names else None if zero is None else int(zero),
        integers=raw["integers"],
        scales=_flatten(values.get("weight_scale"), np.float64),
        zeros=np.zeros(1, np.int64) if "weight_zero" not in names else _flatten(values["weight_zero"], np.int64),
        bias=_flatten(bias, np.int64) if bias is not None and bias.dtype == np.int32 else None,
        bias_scale=_flatten(values.get("bias_scale"), np.float64),
        places=raw["places"],
    )


def _name_kind(tensors: Tensors, raw: dict[str, Any]) -> str:
    activation = tensors.type_of(raw["names"]["input"])
    weight = "s8" if raw["integers"].dtype == np.int8 else "u8"
    if weight == "u8" and activation in ("u8", "s8"):
        return "u8u8"  # on x86, s8 activations become u8
    if activation == "s8":
        return f"s8s8 in {'Q/DQ' if raw['form'] == 'QDQ' else raw['form']}"
    left = tensors.nodes[raw["index"]].op_type == "ConvInteger"
    return f"{activation}{weight} in ConvInteger" if left else f"{activation}{weight}"


def _find_misfit(tensors: Tensors, layer: Layer, raw: dict[str, Any]) -> str:
    """Why scales and zero points do not fit the weight; an empty string if they do."""
    channels = raw["integers"].shape[layer.channel_axis]
    activation, operator = tensors.type_of(raw["names"]["input"]), tensors.nodes[raw["index"]].op_type
    if activation == "?" or (operator == "ConvInteger" and activation != "u8"):
        return f"its activations are of {'unknown type' if activation == '?' else activation}"
    many = False
    for role in ("weight_scale", "weight_zero", "bias", "bias_scale"):
        if role not in raw["names"]:
            continue
        values = tensors.read(raw["names"][role])
        if values is None:
            return f"its {role.replace('_', ' ')} is no constant"
        if values.size != channels and (values.size != 1 or role == "bias"):
            return f"{values.size} numbers in its {role.replace('_', ' ')} for {channels} output channels"
        many = many or (role == "weight_scale" and values.size > 1)
    if many and raw["axis"] is not None and raw["axis"] % raw["integers"].ndim != layer.channel_axis:
        return "its weight scales run along another axis than its output channels"
    return ""


def _flatten(values: NDArray[Any] | None, kind: Any) -> Any:
    return None if values is None else values.astype(kind).reshape(-1)


def _single(values: NDArray[Any] | None) -> float | None:
    return float(values.reshape(-1)[0]) if values is not None and values.size == 1 else None
