"""Every node and every tensor of a model, wherever they are: in subgraphs, in functions, in training graphs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import onnx

#: A constant larger than this is weights; smaller ones may be sizes, scales, divisors.
_SMALL_ELEMENTS = 1 << 12


class Places(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The nodes of a model, its tensors and declared values, all flat; ``constants`` are the tensors with a name."""

    nodes: tuple[Any, ...]
    tensors: tuple[Any, ...]
    sparse: tuple[Any, ...]
    values: tuple[Any, ...]
    constants: dict[str, Any]


def find_places(model: onnx.ModelProto) -> Places:
    """Walk the whole model once. A name that two scopes give to two tensors stands for the first of them."""
    nodes: list[Any] = []
    tensors: list[Any] = []
    sparse: list[Any] = []
    values: list[Any] = []
    constants: dict[str, Any] = {}
    trained = [graph for info in model.training_info for graph in (info.initialization, info.algorithm)]
    graphs: list[Any] = [model.graph, *trained]
    loose: list[Any] = [node for function in model.functions for node in function.node]
    defaults = [item for function in model.functions for item in function.attribute_proto]
    waiting = [*_list_parts(defaults, tensors, sparse)]
    graphs += waiting
    while graphs or loose:
        batch = loose
        if graphs:
            graph = graphs.pop()
            tensors += graph.initializer
            sparse += graph.sparse_initializer
            values += [*graph.input, *graph.output, *graph.value_info]
            for tensor in graph.initializer:
                constants.setdefault(tensor.name, tensor)
            batch = list(graph.node)
        else:
            loose = []
        nodes += batch
        for node in batch:
            graphs += _list_parts(node.attribute, tensors, sparse)
            if node.op_type == "Constant" and node.output and node.attribute:
                constants.setdefault(node.output[0], node.attribute[0])
    return Places(
        nodes=tuple(nodes), tensors=tuple(tensors), sparse=tuple(sparse), values=tuple(values), constants=constants
    )


def read_constant(places: Places, name: str) -> list[float] | None:
    """The values of a small constant, flat, or None if ``name`` is none or holds no numbers."""
    found = places.constants.get(name)
    if found is None:
        return None
    if hasattr(found, "dims"):
        return _read_tensor(found)
    if found.HasField("t"):
        return _read_tensor(found.t)
    single = {2: found.i, 1: found.f}.get(found.type)
    return [single] if single is not None else list(found.ints) or list(found.floats) or None


def _read_tensor(tensor: Any) -> list[float] | None:
    from onnx import numpy_helper

    size = 1
    for axis in tensor.dims:
        size *= max(axis, 0)
    if size > _SMALL_ELEMENTS or tensor.external_data or tensor.data_type == 8:  # text
        return None
    try:
        return [value.item() for value in numpy_helper.to_array(tensor).reshape(-1)]
    except (ValueError, TypeError, AttributeError):
        return None  # its size is not what it says: shapes.py refuses it


def _list_parts(attributes: Any, tensors: list[Any], sparse: list[Any]) -> Iterator[Any]:
    """Collect the tensors of attributes, and yield their graphs."""
    for item in attributes:
        if item.HasField("t"):
            tensors.append(item.t)
        if item.HasField("sparse_tensor"):
            sparse.append(item.sparse_tensor)
        tensors += item.tensors
        sparse += item.sparse_tensors
        if item.HasField("g"):
            yield item.g
        yield from item.graphs
