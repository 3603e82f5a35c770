"""Put new weights, scales and biases into a quantized file; whatever is not named stays as it is, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbdeploy.auditing.choosing import Choice
from mbdeploy.auditing.products import Product
from mbdeploy.model_file import copy_model
from mbdeploy.quant.layers import restore_order

_INT32 = np.iinfo(np.int32)
#: The oldest opset whose DequantizeLinear takes scales per channel.
_AXIS_OPSET = 13


def may_rescale(product: Product, opset: int) -> bool:
    """Whether the scales of a product's channels can be chosen one by one where it stands.

    A convolution with one scale for all gets one a channel. A matrix product keeps a single one, which not every
    runtime fuses otherwise; MatMulInteger's scale stands in a multiplication behind it, where a row does as well.
    """
    if product.scales is None or product.zeros.any():
        return False
    if not (np.isfinite(product.scales) & (product.scales > 0)).all():
        return False
    if product.per_channel:
        return True
    if "input_scale" not in product.places:
        return product.layer.operator == "MatMul"
    return product.layer.operator == "Conv" and (product.form == "QOperator" or opset >= _AXIS_OPSET)


class Rewriter:
    """A copy of a model into which choices are put one after the other."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copy_model(model)
        self._graph = self.model.graph
        # Nodes that are added go behind all others first, so that numbers of nodes stay true; ``finish`` sorts.
        self._before: dict[int, list[onnx.NodeProto]] = {}
        self._read = {name for node in self._graph.node for name in node.input}
        self._taken = {tensor.name for tensor in self._graph.initializer}
        self._taken |= {name for node in self._graph.node for name in (*node.input, *node.output)}

    def put(self, product: Product, choice: Choice) -> None:
        """Replace a product's integers, and where scales grew, its scales and its bias."""
        integers = restore_order(choice.integers, product.integers.shape, product.layer)
        node = self._own_node(product, "weight")
        slots = {role: slot for role, (_, slot) in product.places.items()}
        self._replace(node, slots["weight"], integers.astype(product.integers.dtype))
        if bool((choice.growth == 1).all()) or product.scales is None:
            return
        scales = np.broadcast_to(product.scales, product.channels) * choice.growth
        holder = node if product.form == "QDQ" else self._graph.node[product.places["weight_scale"][0]]
        self._replace(holder, slots["weight_scale"], scales.astype(np.float32))
        if "weight_zero" in slots and "input_scale" in slots:
            zeros = np.broadcast_to(product.zeros, product.channels)
            self._replace(node, slots["weight_zero"], zeros.astype(product.integers.dtype))
        if product.form == "QDQ":
            _set_axis(node, product.layer.channel_axis)
        if product.bias is not None:
            self._put_bias(product, product.bias, choice)

    def finish(self) -> onnx.ModelProto:
        """The model with added nodes in their places and without constants and nodes that nothing reads any more."""
        nodes = list(self._graph.node)
        ordered = [extra for index, node in enumerate(nodes) for extra in (*self._before.get(index, ()), node)]
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        self._drop_unread()
        return self.model

    def _put_bias(self, product: Product, bias: NDArray[np.int64], choice: Choice) -> None:
        node = self._own_node(product, "bias")
        moved = np.rint(bias / choice.growth).clip(_INT32.min, _INT32.max)
        self._replace(node, product.places["bias"][1], moved.astype(np.int32))
        if product.bias_scale is None:
            return
        scales = np.broadcast_to(product.bias_scale, product.channels) * choice.growth
        self._replace(node, product.places["bias_scale"][1], scales.astype(np.float32))
        if len(node.input) > 2 and node.input[2]:
            self._replace(node, 2, np.zeros(product.channels, np.int32))
        _set_axis(node, 0)

    def _own_node(self, product: Product, role: str) -> onnx.NodeProto:
        """The node that holds a product's weight or bias; a DequantizeLinear that others read too is doubled."""
        index = product.places[role][0]
        node = self._graph.node[index]
        if product.form != "QDQ" or self._count(node.output[0]) == 1:
            return node
        double = onnx.NodeProto()
        double.CopyFrom(node)
        double.name = self._name(node.name or "DequantizeLinear")
        double.output[0] = self._name(node.output[0])
        self._before.setdefault(index, []).append(double)
        self._graph.node[product.index].input[{"weight": 1, "bias": 2}[role]] = double.output[0]
        return double

    def _replace(self, node: onnx.NodeProto, slot: int, values: NDArray[Any]) -> None:
        """Put a constant into an input: under its own name if nobody else reads it, else under a new one."""
        name = node.input[slot]
        stored = next((tensor for tensor in self._graph.initializer if tensor.name == name), None)
        shape = tuple(stored.dims) if stored is not None and np.prod(stored.dims) == values.size else values.shape
        own = stored is not None and self._count(name) == 1
        fresh = numpy_helper.from_array(np.ascontiguousarray(values.reshape(shape)), name if own else self._name(name))
        if own and stored is not None:
            stored.CopyFrom(fresh)
            for value in self._graph.input:  # old files list their constants as inputs too
                if value.name == name:
                    value.type.CopyFrom(onnx.helper.make_tensor_type_proto(fresh.data_type, shape))
        else:
            self._graph.initializer.append(fresh)
            node.input[slot] = fresh.name

    def _count(self, name: str) -> int:
        """How many inputs of nodes read a tensor, those set aside and outputs of the graph included."""
        extra = [node for nodes in self._before.values() for node in nodes]
        reads = sum(name == read for node in (*self._graph.node, *extra) for read in node.input)
        return int(reads + sum(name == value.name for value in self._graph.output))

    def _name(self, wish: str) -> str:
        name, number = f"{wish}_safe", 1
        while name in self._taken:
            number += 1
            name = f"{wish}_safe{number}"
        self._taken.add(name)
        return name

    def _drop_unread(self) -> None:
        outputs = {value.name for value in self._graph.output}
        changed = True
        while changed:
            read = {name for node in self._graph.node for name in node.input} | outputs
            dead = [
                node
                for node in self._graph.node
                if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant") and not set(node.output) & read
            ]
            for node in dead:
                self._graph.node.remove(node)
            changed = bool(dead)
        gone = self._read - {name for node in self._graph.node for name in node.input} - outputs
        for tensor in [tensor for tensor in self._graph.initializer if tensor.name in gone]:
            self._graph.initializer.remove(tensor)


def _set_axis(node: onnx.NodeProto, axis: int) -> None:
    for item in [item for item in node.attribute if item.name == "axis"]:
        node.attribute.remove(item)
    node.attribute.append(onnx.helper.make_attribute("axis", axis))
