"""COUNTERS: for every operator that can be counted, the rule that counts its multiply-adds and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

from mbdeploy.costs.graph import ACTIVATIONS, VIEWS, Graph, Node
from mbdeploy.costs.report import Shape


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found. ``read`` is the number of activation elements read, None for all of the inputs;
    ``is_view`` says that nothing is read or written. ``weight`` is the tensor that MACs multiply, if constant.
    """

    kind: str
    macs: int = 0
    weight: str = ""
    others: tuple[str, ...] = ()
    kernel: Shape = ()
    strides: Shape = ()
    groups: int = 1
    read: int | None = None
    is_view: bool = False


class UnknownShapeError(Exception):
    """A rule needs the shape of a tensor that could not be inferred; the argument is its name."""


Counter = Callable[[Graph, Node], Count]


def _shape(graph: Graph, tensor: str) -> Shape:
    if tensor not in graph.shapes:
        raise UnknownShapeError(tensor)
    return graph.shapes[tensor]


def _constants(graph: Graph, node: Node, *slots: int) -> tuple[str, ...]:
    names = (node.inputs[slot] for slot in slots if slot < len(node.inputs))
    return tuple(name for name in names if name and name in graph.constants)


def _conv(weight: int, *biases: int) -> Counter:
    def count(graph: Graph, node: Node) -> Count:
        """Output elements x kernel elements x input channels of a group."""
        kernel = _shape(graph, node.inputs[weight])
        output = _shape(graph, node.outputs[0])
        per_output = math.prod(kernel[1:])
        return _describe_conv(graph, node, kernel, weight, biases, macs=math.prod(output) * per_output)

    return count


def _conv_transpose(graph: Graph, node: Node) -> Count:
    """Input elements x kernel elements x output channels of a group: each input is spread over a kernel."""
    kernel = _shape(graph, node.inputs[1])
    image = _shape(graph, node.inputs[0])
    return _describe_conv(graph, node, kernel, 1, (2,), macs=math.prod(image) * math.prod(kernel[1:]))


def _describe_conv(
    graph: Graph, node: Node, kernel: Shape, weight: int, biases: tuple[int, ...], *, macs: int
) -> Count:
    groups = int(node.attributes.get("group", 1))
    spatial = kernel[2:]
    return Count(
        kind=_name_conv(groups, kernel),
        macs=macs,
        weight=next(iter(_constants(graph, node, weight)), ""),
        others=_constants(graph, node, *biases),
        kernel=spatial,
        strides=tuple(node.attributes.get("strides", [1] * len(spatial))),
        groups=groups,
    )


def _name_conv(groups: int, kernel: Shape) -> str:
    if groups > 1:
        return "depthwise conv" if kernel[1] == 1 else "grouped conv"
    return "pointwise conv" if math.prod(kernel[2:]) == 1 else "standard conv"


def _gemm(graph: Graph, node: Node) -> Count:
    """Output elements x the length of the sum."""
    first = _shape(graph, node.inputs[0])
    length = first[0] if node.attributes.get("transA", 0) else first[1]
    macs = math.prod(_shape(graph, node.outputs[0])) * length
    weight = next(iter(_constants(graph, node, 1)), "")
    return Count(kind="gemm", macs=macs, weight=weight, others=_constants(graph, node, 2))


def _matmul(first: int, second: int) -> Counter:
    def count(graph: Graph, node: Node) -> Count:
        """Output elements x the length of the sum."""
        macs = math.prod(_shape(graph, node.outputs[0])) * _shape(graph, node.inputs[first])[-1]
        return Count(kind="gemm", macs=macs, weight=next(iter(_constants(graph, node, first, second)), ""))

    return count


def _elementwise(graph: Graph, node: Node) -> Count:
    """No MACs; constants of more than one element (a scale, a shift, PReLU's slopes) are parameters."""
    learned = (name for name in _constants(graph, node, *range(len(node.inputs))) if math.prod(_shape(graph, name)) > 1)
    return Count(kind="elementwise", others=tuple(learned))


def _normalization(graph: Graph, node: Node) -> Count:
    """No MACs; scale and shift are parameters, running statistics are not."""
    return Count(kind="elementwise", others=_constants(graph, node, 1, 2))


def _pool(graph: Graph, node: Node) -> Count:
    kernel = tuple(node.attributes.get("kernel_shape", ()))
    return Count(kind="pooling", kernel=kernel, strides=tuple(node.attributes.get("strides", ())))


def _move(graph: Graph, node: Node) -> Count:
    return Count(kind="data movement")


def _pick(graph: Graph, node: Node) -> Count:
    """Reads only what it writes."""
    return Count(kind="data movement", read=sum(math.prod(_shape(graph, name)) for name in node.outputs))


def _view(graph: Graph, node: Node) -> Count:
    return Count(kind="data movement", is_view=True)


_ELEMENTWISE = (
    "Abs Acos Add And Asin Atan BitShift Cast Ceil Cos CumSum Div Equal Exp Floor Greater GreaterOrEqual Hardmax Less "
    "LessOrEqual Log LogSoftmax Max Mean Min Mod Mul Neg Not Or Pow Reciprocal Round Sign Sin Softmax Sqrt Sub Sum "
    "Where Xor DynamicQuantizeLinear QuantizeLinear DequantizeLinear"
).split()
_NORMALIZATIONS = (
    "BatchNormalization InstanceNormalization LayerNormalization GroupNormalization LpNormalization LRN "
    "RMSNormalization MeanVarianceNormalization"
).split()
_POOLS = (
    "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool ReduceL1 ReduceL2 ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ArgMax ArgMin TopK"
).split()
_MOVES = (
    "CastLike Concat DepthToSpace Expand Pad Resize ReverseSequence ScatterElements ScatterND SpaceToDepth Tile "
    "Transpose Upsample"
).split()
_PICKS = "Gather GatherElements GatherND Slice Split".split()

#: The rule by operator; what is not here is listed as uncounted, never guessed.
COUNTERS: dict[str, Counter] = {
    **dict.fromkeys((*_ELEMENTWISE, *ACTIVATIONS), _elementwise),
    **dict.fromkeys(_NORMALIZATIONS, _normalization),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_PICKS, _pick),
    **dict.fromkeys(VIEWS, _view),
    "Conv": _conv(1, 2),
    "ConvInteger": _conv(1),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearConv": _conv(3, 8),
    "QLinearMatMul": _matmul(0, 3),
}
