"""Which activations are in memory at the same time, node by node in execution order."""

from __future__ import annotations

import msgspec

from mbdeploy.costs.graph import ACTIVATIONS, Graph, Node, is_view
from mbdeploy.costs.report import PeakMemory


class Liveness(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of all live activations while each node runs, in execution order.

    ``whole`` is False if the size of a tensor is unknown: then the sums lack it.
    """

    fp32: tuple[int, ...]
    int8: tuple[int, ...]
    whole: bool


def measure_liveness(graph: Graph) -> Liveness:
    """Add up the buffers that are alive at every node.

    Rules: 1. a buffer lives from the node that writes it to the last one that reads it; the graph's inputs
    from the start, its outputs to the end. 2. A view shares its input's buffer, and so does an activation
    that alone reads it. 3. In a quantized file, a float tensor that no Q follows keeps four bytes.
    """
    owner = _share_buffers(graph)
    first: dict[str, int] = {owner.get(name, name): 0 for name in graph.inputs}
    last: dict[str, int] = dict(first)
    end = len(graph.nodes) - 1
    for index, node in enumerate(graph.nodes):
        for tensor in (*graph.activations(node.inputs), *node.outputs):
            buffer = owner.get(tensor, tensor)
            first.setdefault(buffer, index)
            last[buffer] = index
    for tensor in graph.outputs:
        buffer = owner.get(tensor, tensor)
        if buffer in first:
            last[buffer] = end  # 1.
    sizes: dict[str, tuple[int, int]] = {}
    whole = True
    for tensor in {*graph.inputs, *(name for node in graph.nodes for name in node.outputs)}:
        if tensor not in graph.shapes:
            whole = False
            continue
        buffer = owner.get(tensor, tensor)
        size = _size(graph, tensor)
        sizes[buffer] = tuple(map(max, size, sizes.get(buffer, (0, 0))))  # type: ignore[assignment]
    return Liveness(fp32=_add_up(first, last, sizes, 0, end), int8=_add_up(first, last, sizes, 1, end), whole=whole)


def find_peak(graph: Graph, liveness: Liveness) -> PeakMemory:
    """The largest of the sums, and the first node at which it is reached."""
    at_fp32 = max(range(len(graph.nodes)), key=lambda index: liveness.fp32[index])
    at_int8 = max(range(len(graph.nodes)), key=lambda index: liveness.int8[index])
    return PeakMemory(
        fp32_bytes=liveness.fp32[at_fp32],
        fp32_node=graph.nodes[at_fp32].name,
        int8_bytes=liveness.int8[at_int8],
        int8_node=graph.nodes[at_int8].name,
    )


def _share_buffers(graph: Graph) -> dict[str, str]:
    owner: dict[str, str] = {}
    for node in graph.nodes:
        if node.inputs and node.outputs and node.inputs[0] not in graph.constants and _is_in_place(graph, node):
            owner[node.outputs[0]] = owner.get(node.inputs[0], node.inputs[0])  # 2.
    return owner


def _is_in_place(graph: Graph, node: Node) -> bool:
    if is_view(node):
        return True
    alone = graph.only_reader(node.inputs[0]) is node and node.inputs[0] not in graph.inputs
    return alone and node.operator in (*ACTIVATIONS, "BatchNormalization")


def _size(graph: Graph, tensor: str) -> tuple[int, int]:
    fp32 = graph.bytes_of(tensor, float_bytes=4)
    stays_float = bool(graph.quantized) and tensor not in graph.quantized
    return fp32, fp32 if stays_float else graph.bytes_of(tensor, float_bytes=1)  # 3.


def _add_up(
    first: dict[str, int], last: dict[str, int], sizes: dict[str, tuple[int, int]], which: int, end: int
) -> tuple[int, ...]:
    changes = [0] * (end + 2)
    for buffer, start in first.items():
        size = sizes.get(buffer, (0, 0))[which]
        changes[start] += size
        changes[last[buffer] + 1] -= size
    total, sums = 0, []
    for change in changes[: end + 1]:
        total += change
        sums.append(total)
    return tuple(sums)
