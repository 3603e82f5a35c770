"""Which tensor of the float graph each 8-bit tensor stands for, and the graph with all of them as outputs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import onnx

from mbdeploy.model_file import copy_model, list_readers
from mbdeploy.tracing.cuts import Cut, list_cuts

#: What quantizers leave out where the range of the 8-bit tensor implies it.
_IMPLIED = frozenset({"Relu", "Clip"})


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A cut of the 8-bit graph, the float graph's ``tensor`` for it, and the tensors of the pairs it is made from."""

    cut: Cut
    tensor: str
    sources: tuple[str, ...]


def pair_tensors(quantized: onnx.ModelProto, floats: onnx.ModelProto) -> tuple[list[Pair], list[str]]:
    """The pairs in the order of the 8-bit graph, and the 8-bit tensors that the float graph has nothing for.

    Rules: 1. quantizers keep names: the float tensor is called what QuantizeLinear reads, or what DequantizeLinear
    makes of it. 2. Where a Relu or Clip alone reads that tensor and the 8-bit graph has none of it, the range implies
    it, and the pair is with what it makes. 3. The graph's outputs count, in float too; the image, padded or not, does
    not.
    """
    ends = {value.name for value in quantized.graph.output}
    image = {value.name for value in quantized.graph.input}
    cuts = [cut for cut in list_cuts(quantized) if cut.scale is not None or cut.tensor in ends]
    cuts = [cut for cut in cuts if not (cut.operator == "Pad" and image.issuperset(cut.sources))]  # 3.
    makers = {name: node for node in quantized.graph.node for name in node.output}
    decoded = {node.input[0]: node.output[0] for node in quantized.graph.node if node.op_type == "DequantizeLinear"}
    readers = list_readers(floats.graph)
    made = {name for node in floats.graph.node for name in node.output}
    found: dict[str, str] = {}
    for cut in cuts:
        source = makers[cut.tensor].input[0] if cut.scale is not None else cut.tensor
        name = next((name for name in (source, decoded.get(cut.tensor, "")) if name in made), None)  # 1.
        if name is not None:
            found[cut.tensor] = _pass_implied(name, readers, makers)
    places = {cut.tensor: cut for cut in cuts}
    pairs = [
        Pair(cut=cut, tensor=found[cut.tensor], sources=_list_sources(cut, places, found))
        for cut in cuts
        if cut.tensor in found
    ]
    return pairs, [cut.tensor for cut in cuts if cut.tensor not in found]


def mark_outputs(model: onnx.ModelProto, pairs: list[Pair]) -> onnx.ModelProto:
    """A copy that also gives the 8-bit tensors of the pairs, behind its own outputs."""
    marked = copy_model(model)
    there = {value.name for value in marked.graph.output}
    for name in dict.fromkeys(pair.cut.tensor for pair in pairs):
        if name not in there:
            marked.graph.output.append(onnx.ValueInfoProto(name=name))  # ONNX Runtime infers their types
    return marked


def _pass_implied(name: str, readers: Mapping[str, list[onnx.NodeProto]], makers: Mapping[str, onnx.NodeProto]) -> str:
    while True:  # 2.
        below = readers.get(name, [])
        if len(below) != 1 or below[0].op_type not in _IMPLIED or below[0].output[0] in makers:
            return name
        name = below[0].output[0]


def _list_sources(cut: Cut, places: Mapping[str, Cut], found: Mapping[str, str]) -> tuple[str, ...]:
    """The float tensors of the pairs that the cut is made from, through cuts that have no pair."""
    sources: dict[str, None] = {}
    waiting = list(reversed(cut.sources))
    while waiting:
        name = waiting.pop()
        if name in found:
            sources[found[name]] = None
        elif name in places:
            waiting += reversed(places[name].sources)
    return tuple(sources)
