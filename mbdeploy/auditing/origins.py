"""Which node of a file a node of its optimised graph comes from, where ONNX Runtime gave it another name."""

from __future__ import annotations

import re

import onnx

from mbdeploy.model_file import list_readers

_TOKEN = re.compile(r"_token_\d+$")
#: The domain of convolutions and pools on blocks of channels, and what their names end in.
BLOCKED, _BLOCKED_NAME = "com.microsoft.nchwc", "_nchwc"
#: Conversions, copies and changes of layout, which ONNX Runtime adds.
_GENERATED = {"QuantizeLinear", "DequantizeLinear", "Transpose", "ReorderInput", "ReorderOutput"}
_FUSED = {"FusedConv", "FusedGemm", "FusedMatMul"}
#: From the first node of an inlined function to its result, with changes of layout.
_LONGEST_WAY = 8
_ACTIVATIONS = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh"}


def find_origins(source: onnx.GraphProto, optimised: onnx.GraphProto) -> dict[str, str]:
    """The node of ``source`` by the name of each node of ``optimised``: itself where there is none.

    Rules: 1. a name of the source's is that node's, also with a token behind it. 2. A node on blocks of channels is
    called after the tensor that it makes, and one that took an activation function in makes that one's: the layer
    is the one before it. 3. Of a convolution that took a sum in, it is the convolution. 4. Any other is part of the
    operator that makes the next tensor which the source knows, as those of an inlined function (HardSwish) are.
    """
    sources = {node.name: node for node in source.node}
    makers = {output: node for node in source.node for output in node.output}
    readers = list_readers(optimised)
    found = {}
    for node in optimised.node:
        plain = _TOKEN.sub("", node.name)
        if plain in sources:  # 1.
            found[node.name] = plain
        elif plain.endswith(_BLOCKED_NAME) and node.domain == BLOCKED:
            found[node.name] = _find_layer(plain.removesuffix(_BLOCKED_NAME), makers) or node.name
        elif node.op_type in _FUSED:
            found[node.name] = _find_layer(node.output[0], makers) or node.name
        elif node.op_type in _GENERATED:
            found[node.name] = node.name
        else:
            found[node.name] = _find_whole(node, sources, makers, readers) or node.name
    return found


def _find_layer(tensor: str, makers: dict[str, onnx.NodeProto]) -> str:
    """The name of the layer that makes a tensor, perhaps through an activation function; empty if none does."""
    node = makers.get(tensor)
    while node is not None and node.op_type in _ACTIVATIONS:  # 2.
        node = makers.get(node.input[0])
    if node is None:
        return ""
    summed = [makers[name] for name in node.input if name in makers] if node.op_type == "Add" else []
    name: str = next((made for made in summed if made.op_type == "Conv"), node).name  # 3.
    return name


def _find_whole(
    node: onnx.NodeProto,
    sources: dict[str, onnx.NodeProto],
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
) -> str:
    """The name of the operator that a node is a part of; empty if the way to its result is not plain."""  # 4.
    for _ in range(_LONGEST_WAY):
        if node.output[0] in makers:
            return str(makers[node.output[0]].name)
        below = readers.get(node.output[0], [])
        if not below:
            return ""
        node = below[0]
        known = sources.get(_TOKEN.sub("", node.name))
        if known is not None:  # the result is what this one reads
            result = known.input[0]
            return str(makers[result].name) if result in makers else ""
    return ""
