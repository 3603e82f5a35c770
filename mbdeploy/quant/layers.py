"""Which nodes carry weights that INT8 kernels multiply, and how those weights lie in the kernels' order."""

from __future__ import annotations

from typing import TypeVar

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float32]
Number = TypeVar("Number", np.float32, np.int32, np.int8)


class Layer(msgspec.Struct, frozen=True, kw_only=True):
    """A Conv, Gemm or MatMul with constant weights.

    ``channel_axis`` is the weight's axis of output channels. ``depthwise`` means one input and one
    output channel a group: such layers have kernels of their own, which never add neighbouring
    products in 16 bits.
    """

    node: str
    operator: str
    input: str
    output: str
    weight: str
    bias: str | None
    channel_axis: int
    depthwise: bool


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Every Conv, Gemm and MatMul whose weight is a float32 initializer, in graph order."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    layers = []
    for node in model.graph.node:
        if node.op_type not in _CHANNEL_AXIS or len(node.input) < 2 or node.input[1] not in weights:
            continue
        tensor = weights[node.input[1]]
        if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        attributes = {item.name: item.i for item in node.attribute if item.type == onnx.AttributeProto.INT}
        if node.op_type != "Conv" and (len(tensor.dims) != 2 or attributes.get("transA", 0)):
            continue
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in weights else None
        layers.append(
            Layer(
                node=node.name,
                operator=node.op_type,
                input=node.input[0],
                output=node.output[0],
                weight=tensor.name,
                bias=bias,
                channel_axis=_CHANNEL_AXIS[node.op_type](attributes, len(tensor.dims)),
                depthwise=_is_depthwise(node.op_type, attributes, tuple(tensor.dims)),
            )
        )
    return layers


def view_reduction(weight: NDArray[Number], layer: Layer) -> NDArray[Number]:
    """A layer's weights as (output channels, kernel positions, input channels): the order in which kernels add.

    Convolution kernels of ONNX Runtime and oneDNN reduce over (kh, kw, cin), the input channel
    fastest; matrix products have one position. The result is a view or a copy of ``weight``.
    """
    if layer.operator == "Conv":
        spatial_last = np.moveaxis(weight, 1, -1)
        return spatial_last.reshape(weight.shape[0], -1, weight.shape[1])
    by_channel = np.moveaxis(weight, layer.channel_axis, 0)
    return by_channel.reshape(by_channel.shape[0], 1, -1)


def restore_order(view: NDArray[Number], shape: tuple[int, ...], layer: Layer) -> NDArray[Number]:
    """The reverse of ``view_reduction``: values by (output channel, ...) in the weight's own ``shape`` and order."""
    if layer.operator == "Conv":
        spatial_last = view.reshape(shape[0], *shape[2:], shape[1])
        return np.ascontiguousarray(np.moveaxis(spatial_last, -1, 1))
    return np.ascontiguousarray(np.moveaxis(view.reshape(len(view), -1), 0, layer.channel_axis))


def spread_scales(scales: NDArray[np.float32], layer: Layer, rank: int) -> NDArray[np.float32]:
    """One scale a channel, shaped so that it broadcasts over the layer's weight of that rank."""
    shape = [1] * rank
    shape[layer.channel_axis] = -1
    return scales.reshape(shape)


def read_weight(model: onnx.ModelProto, name: str) -> Array:
    """An initializer's values as a float32 array."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    values: Array = numpy_helper.to_array(tensor)
    return values


def _conv_axis(attributes: dict[str, int], rank: int) -> int:
    return 0


def _gemm_axis(attributes: dict[str, int], rank: int) -> int:
    return 0 if attributes.get("transB", 0) else 1


def _matmul_axis(attributes: dict[str, int], rank: int) -> int:
    return rank - 1


_CHANNEL_AXIS = {"Conv": _conv_axis, "Gemm": _gemm_axis, "MatMul": _matmul_axis}


def _is_depthwise(operator: str, attributes: dict[str, int], dims: tuple[int, ...]) -> bool:
    group = attributes.get("group", 1)
    return operator == "Conv" and group > 1 and dims[1] == 1 and dims[0] == group
