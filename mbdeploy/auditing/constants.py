"""A quantized graph's constants, the 8-bit types of its tensors, and every scale in it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from mbdeploy.errors import ModelError

#: An input of a node: (number of the node, number of the input).
Place = tuple[int, int]

_TYPES = {
    TensorProto.UINT8: "u8",
    TensorProto.INT8: "s8",
    TensorProto.UINT16: "u16",
    TensorProto.INT16: "s16",
    TensorProto.INT32: "s32",
    TensorProto.UINT4: "u4",
    TensorProto.INT4: "s4",
}
#: By operator, (what is scaled, its scale, its zero point) as numbers of inputs; -1 is the node's result.
_THREE = [(0, 1, 2), (3, 4, 5), (-1, 6, 7)]
_GRIDS = {
    "QuantizeLinear": [(-1, 1, 2)],
    "DequantizeLinear": [(0, 1, 2)],
    "QGemm": [(0, 1, 2), (3, 4, 5), (-1, 7, 8)],
    **dict.fromkeys(("QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul"), _THREE),
}


class Tensors:
    """The graph with its constants at hand: initializers, Constant nodes, and what a QuantizeLinear makes of them.

    ``producers`` says which node makes a tensor, ``readers`` which inputs of which nodes read it. ``where``
    names the file in errors.
    """

    def __init__(self, model: onnx.ModelProto, where: object) -> None:
        self.nodes = model.graph.node
        self.where = where
        self._inputs = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._stored |= {
            node.output[0]: node.attribute[0].t
            for node in self.nodes
            if node.op_type == "Constant" and node.output and node.attribute and node.attribute[0].name == "value"
        }
        self._arrays: dict[str, NDArray[Any]] = {}
        self.producers = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, list[Place]] = defaultdict(list)
        for index, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                self.readers[name].append((index, slot))

    def name(self, index: int) -> str:
        """A node's name; one without a name is called by its operator and its place."""
        node = self.nodes[index]
        return node.name or f"{node.op_type}_{index}"

    def operand(self, index: int, slot: int) -> str:
        """The name of a node's input, "" if it has none there."""
        node = self.nodes[index]
        return str(node.input[slot]) if 0 <= slot < len(node.input) else ""

    def maker(self, name: str, operator: str) -> int | None:
        """The node that makes a tensor, if it is of this operator."""
        index = self.producers.get(name)
        return index if index is not None and self.nodes[index].op_type == operator else None

    def read(self, name: str) -> NDArray[Any] | None:
        """A constant's values; None if it is none.

        Raises:
            ModelError: a tensor whose data do not fit its shape.
        """
        if name not in self._arrays:
            values = self._decode(self._stored[name]) if name in self._stored else self._quantize(name)
            if values is None:
                return None
            self._arrays[name] = values
        return self._arrays[name]

    def type_of(self, name: str) -> str:
        """A tensor's integer type as u8, s8 and the like; "?" if nothing says."""
        for _ in range(len(self.nodes) + 1):  # a damaged graph may have a cycle
            if name in self._stored:
                return _TYPES.get(self._stored[name].data_type, "?")
            index = self.producers.get(name)
            if index is None:
                return _TYPES.get(self._inputs.get(name, 0), "?")
            node = self.nodes[index]
            if node.op_type == "DynamicQuantizeLinear":
                return "u8"
            zero = next((self.operand(index, slot) for data, _, slot in list_grids(node) if data < 0), None)
            if zero:
                name = zero
            elif node.op_type == "QuantizeLinear":
                chosen = next((item.i for item in node.attribute if item.name == "output_dtype"), 0)
                return _TYPES.get(chosen or TensorProto.UINT8, "?")
            elif zero is None and node.input:
                name = node.input[0]  # MaxPool, Reshape and the like pass it on
            else:
                return "?"
        return "?"

    def walk_grids(self) -> Iterator[tuple[int, int, int, int]]:
        """Every scale of the graph: (node, what is scaled, -1 for its result; its scale, its zero point)."""
        for index, node in enumerate(self.nodes):
            for data, scale, zero in list_grids(node):
                if self.operand(index, scale):
                    yield index, data, scale, zero

    def _decode(self, tensor: onnx.TensorProto) -> NDArray[Any]:
        try:
            return np.asarray(numpy_helper.to_array(tensor))
        except (ValueError, TypeError, KeyError) as error:
            raise ModelError(
                where=self.where,
                expected="tensors whose data fit their shape",
                found=f"{tensor.name!r}, of which that is not so ({error})",
                todo="make the file again",
            ) from error

    def _quantize(self, name: str) -> NDArray[Any] | None:
        """What a QuantizeLinear over constants gives: some tools store float weights and leave the rest to it."""
        index = self.maker(name, "QuantizeLinear")
        if index is None:
            return None
        node = self.nodes[index]
        values, scale = self.read(self.operand(index, 0)), self.read(self.operand(index, 1))
        zero = self.read(self.operand(index, 2)) if self.operand(index, 2) else np.zeros((), np.uint8)
        if values is None or scale is None or zero is None or zero.dtype not in (np.uint8, np.int8):
            return None
        axis = next((item.i for item in node.attribute if item.name == "axis"), 1)
        if scale.size > 1 and (not -values.ndim <= axis < values.ndim or values.shape[axis] != scale.size):
            return None
        shape = [1] * values.ndim
        if scale.size > 1:
            shape[axis] = -1
        limits = np.iinfo(zero.dtype)
        with np.errstate(all="ignore"):
            moved = np.rint(values / scale.reshape(shape))
        centre = zero.astype(np.float64).reshape(shape if zero.size > 1 else ())
        return np.asarray(np.clip(np.nan_to_num(moved) + centre, limits.min, limits.max), zero.dtype)


def list_grids(node: onnx.NodeProto) -> list[tuple[int, int, int]]:
    """A node's scales: (what is scaled, -1 for its result; the scale; the zero point), as numbers of inputs."""
    if node.op_type == "QLinearConcat":
        return [(-1, 0, 1), *((slot, slot + 1, slot + 2) for slot in range(2, len(node.input), 3))]
    if node.op_type in _GRIDS:
        return _GRIDS[node.op_type]
    return [(0, 1, 2), (-1, 3, 4)] if node.op_type.startswith("QLinear") else []
