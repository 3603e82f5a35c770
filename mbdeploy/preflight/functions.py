"""How many nodes a model has once its functions are expanded, and how often its loops run: counted, never done."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mbdeploy.bounds import Bounds
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes, show_name
from mbdeploy.preflight.walking import Places, read_constant

if TYPE_CHECKING:
    import onnx

_Key = tuple[str, str, str]
#: Functions that call functions, and graphs within nodes of graphs: a chain of more is no network.
_DEEPEST = 64


def check_functions(model: onnx.ModelProto, places: Places, where: object, bounds: Bounds) -> int:
    """The number of nodes after expansion.

    Raises:
        ModelError: functions that call themselves or of which there are two of a name, too many nodes or trips.
    """
    functions: dict[_Key, Any] = {}
    for function in model.functions:
        key = (function.domain, function.name, function.overload)
        if key in functions:
            raise refuse(where, "one function of each name", f"two named {show_name(function.name)}")
        functions[key] = function
    counted: dict[_Key, int] = {}
    open_calls: list[_Key] = []

    def count(nodes: Iterable[Any], trips: int, depth: int) -> int:
        if depth > _DEEPEST:
            raise refuse(where, f"graphs and functions nested in at most {_DEEPEST} levels", "more of them")
        total = 0
        for node in nodes:
            inner = trips
            if node.op_type == "Loop":
                inner = _multiply_trips(node, trips, places, where, bounds)
            key = (node.domain, node.op_type, node.overload)
            total += count_function(key, depth) if key in functions else 1
            for item in node.attribute:
                for graph in (*((item.g,) if item.HasField("g") else ()), *item.graphs):
                    total += count(graph.node, inner, depth + 1)
            if total > bounds.max_nodes:
                raise refuse_more(
                    where, bounds, "max_nodes", "nodes with functions expanded", f"{show_bytes(total)} or more"
                )
        return total

    def count_function(key: _Key, depth: int) -> int:
        if key in open_calls:
            raise refuse(where, "functions that do not call themselves", f"{show_name(key[1])}, which does")
        if key not in counted:
            open_calls.append(key)
            counted[key] = count(functions[key].node, 1, depth + 1)
            open_calls.pop()
        return counted[key]

    for key in functions:
        count_function(key, 0)
    return count(model.graph.node, 1, 0)


def _multiply_trips(node: Any, trips: int, places: Places, where: object, bounds: Bounds) -> int:
    known = read_constant(places, node.input[0]) if node.input and node.input[0] else None
    if known is None and not (node.input and node.input[0]):
        found = f"Loop {show_name(node.name)} without a number of trips"
        raise refuse_more(where, bounds, "max_trips", "trips of a loop", found)
    if known is None or len(known) != 1:
        return trips  # it is computed: the time limit of the step holds
    total = trips * max(int(known[0]), 1)
    if total > bounds.max_trips:
        raise refuse_more(
            where, bounds, "max_trips", "trips of a loop", f"{show_bytes(total)} in Loop {show_name(node.name)}"
        )
    return total
