"""A model as the nodes that a runtime would execute: in order, with shapes, without shape arithmetic and Q/DQ pairs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import msgspec
import onnx

from mbdeploy.costs.report import Shape

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
#: Operators whose output is their input under another name or shape.
VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout")
#: Activations of one tensor: every runtime computes them on the way out of a convolution, or in place.
ACTIVATIONS = (
    "Celu Clip Elu Erf Gelu HardSigmoid HardSwish LeakyRelu Mish PRelu Relu Selu Sigmoid Softplus Softsign Swish Tanh "
    "ThresholdedRelu"
).split()
_FLOATS = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
_ITEM_BYTES = {
    onnx.TensorProto.BOOL: 1,
    onnx.TensorProto.INT8: 1,
    onnx.TensorProto.UINT8: 1,
    onnx.TensorProto.INT16: 2,
    onnx.TensorProto.UINT16: 2,
    onnx.TensorProto.INT32: 4,
    onnx.TensorProto.UINT32: 4,
    onnx.TensorProto.INT64: 8,
    onnx.TensorProto.UINT64: 8,
}


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One executed node. ``operator`` carries its domain unless that is ONNX's own; "" is an input left out.

    Inputs are named after the tensor before its Q/DQ pair.
    """

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Executed nodes in execution order and what is known of every tensor.

    ``shapes`` and ``dtypes`` (ONNX's numbers) lack what could not be inferred; ``problems`` says which nodes
    inference refused. ``values`` are small constants. ``constants`` maps every tensor that does not depend on an input
    to the initializer it comes from. ``quantized`` are the tensors that pass through a Q or are 8-bit anyway.
    """

    nodes: tuple[Node, ...]
    shapes: dict[str, Shape]
    dtypes: dict[str, int]
    values: dict[str, Any]
    constants: dict[str, str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantized: frozenset[str]
    problems: dict[str, str]
    producers: dict[str, Node]
    consumers: dict[str, tuple[Node, ...]]
    folded: int
    quantizers: int

    def elements(self, tensor: str) -> int:
        """How many numbers a tensor of known shape holds."""
        return math.prod(self.shapes[tensor])

    def bytes_of(self, tensor: str, *, float_bytes: int) -> int:
        """Size of an activation whose floats take ``float_bytes``; integers take what they take."""
        dtype = self.dtypes.get(tensor, onnx.TensorProto.FLOAT)
        is_real = tensor in self.quantized or dtype in _FLOATS
        return self.elements(tensor) * (float_bytes if is_real else _ITEM_BYTES.get(dtype, 4))

    def activations(self, names: Iterable[str]) -> list[str]:
        """The distinct tensors among ``names`` that depend on an input."""
        return [name for name in dict.fromkeys(names) if name and name not in self.constants]

    def only_reader(self, tensor: str) -> Node | None:
        """The one node that reads a tensor, if there is just one and the tensor is no output."""
        readers = self.consumers.get(tensor, ())
        return readers[0] if len(readers) == 1 and tensor not in self.outputs else None


def is_view(node: Node) -> bool:
    """Whether the node only gives its input another shape."""
    return node.operator in VIEWS


def is_fused(graph: Graph, node: Node) -> bool:
    """Whether the node runs inside the convolution or matrix product whose output it alone reads.

    So do activations and batch norms, and chains of them.
    """
    if node.operator not in (*ACTIVATIONS, "BatchNormalization") or not node.inputs:
        return False
    before = graph.producers.get(node.inputs[0])
    if before is None or graph.only_reader(node.inputs[0]) is not node:
        return False
    return before.operator in FUSING or is_fused(graph, before)


FUSING = ("Conv", "ConvTranspose", "Gemm", "MatMul", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def qualify(operator: str, domain: str) -> str:
    """The operator's name, with its domain before it unless that is ONNX's own."""
    return operator if domain in ("", "ai.onnx") else f"{domain}::{operator}"
