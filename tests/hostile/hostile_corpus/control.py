"""Loops without end, branches within branches, functions that grow or call themselves, and other domains."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from hostile_corpus.building import LONG_MAX, Item, item, side_item, sound_model, wrap


def make_body(nodes: list[onnx.NodeProto] | None = None, condition: str = "keep.in") -> onnx.GraphProto:
    """A loop's body that adds one and goes on."""
    return helper.make_graph(
        [
            *(nodes or [helper.make_node("Add", ["x.in", "one"], ["x.out"])]),
            helper.make_node("Identity", [condition], ["keep.out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep.in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x.in", TensorProto.FLOAT, [1]),
        ],
        [
            helper.make_tensor_value_info("keep.out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x.out", TensorProto.FLOAT, [1]),
        ],
    )


def loop_item(
    name: str, trips: str, body: onnx.GraphProto | None = None, before: tuple[onnx.NodeProto, ...] = ()
) -> Item:
    node = helper.make_node("Loop", [trips, "true", "one"], ["side"], "loop", body=body or make_body())
    constants = {
        "one": np.ones(1, np.float32),
        "true": np.array(True),
        "many": np.array(LONG_MAX),
        "thousand": np.array(1000),
        "half": np.array(2**31),
        "minus": np.array(-1),
    }
    return side_item(name, [*before, node], constants)


def chain_functions(levels: int, calls: int) -> onnx.ModelProto:
    """Functions each of which calls the one before ``calls`` times: calls^levels nodes from a few lines."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    functions = [helper.make_function("evil", "f0", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])], opsets)]
    for level in range(1, levels):
        names = ["x", *(f"t{index}" for index in range(calls - 1)), "y"]
        nodes = [
            helper.make_node(f"f{level - 1}", [names[index]], [names[index + 1]], domain="evil")
            for index in range(calls)
        ]
        functions.append(helper.make_function("evil", f"f{level}", ["x"], ["y"], nodes, opsets))
    call = helper.make_node(f"f{levels - 1}", ["image"], ["h"], domain="evil")
    return wrap([call], functions=functions, domains={"evil": 1})


def recurse(*names: str) -> onnx.ModelProto:
    """Functions that call each other in a circle."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("evil", 1)]
    functions = [
        helper.make_function("evil", name, ["x"], ["y"], [helper.make_node(after, ["x"], ["y"], domain="evil")], opsets)
        for name, after in zip(names, (*names[1:], names[0]), strict=True)
    ]
    call = helper.make_node(names[0], ["image"], ["h"], domain="evil")
    return wrap([call], functions=functions, domains={"evil": 1})


def nest_branches(levels: int) -> onnx.ModelProto:
    output = [helper.make_tensor_value_info("b0", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["b0"])], "inner", [], output)
    for level in range(1, levels + 1):
        node = helper.make_node("If", ["true"], [f"b{level}"], then_branch=graph, else_branch=graph)
        output = [helper.make_tensor_value_info(f"b{level}", TensorProto.FLOAT, None)]
        graph = helper.make_graph([node], "middle", [], output)
    last = helper.make_node("Identity", [f"b{levels}"], ["h"])
    return wrap([*graph.node, last], {"true": np.array(True)})


def spoil(change: str) -> onnx.ModelProto:
    model = sound_model()
    if change == "circle":
        model.graph.node[0].input[0] = "logits"
    elif change == "two makers":
        model.graph.node.add().CopyFrom(model.graph.node[0])
    elif change == "no operator":
        model.graph.node[0].op_type = ""
    elif change == "unknown operator":
        model.graph.node[0].op_type = "Detonate"
    elif change == "unknown domain":
        model.graph.node[0].domain = "evil"
    elif change == "imported unknown domain":
        model.graph.node[0].domain = "evil"
        model.opset_import.add(domain="evil", version=1)
    elif change == "input without a maker":
        model.graph.node[0].input[0] = "nowhere"
    elif change == "too many inputs":
        model.graph.node[0].input.extend(["w"] * 50)
    elif change == "wrong order":
        nodes = list(model.graph.node)[::-1]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    elif change == "opset twice":
        model.opset_import.add(domain="", version=11)
    elif change.startswith("opset "):
        model.opset_import[0].version = int(change.split()[1])
    elif change.startswith("ir "):
        model.ir_version = int(change.split()[1])
    return model


def list_items() -> Iterator[Item]:
    yield loop_item("Loop of 2^63 - 1 trips", "many")
    yield loop_item("Loop of 2^31 trips", "half")
    yield loop_item("Loop without a count", "")
    yield loop_item("Loop of -1 trips", "minus")
    inner = helper.make_node("Loop", ["thousand", "true", "x.in"], ["x.out"], body=make_body())
    yield loop_item("Loop of 1000 in Loop of 1000", "thousand", make_body([inner]))
    before = helper.make_node("Mul", ["half", "thousand"], ["computed"])
    yield loop_item("Loop of computed trips", "computed", before=(before,))
    yield item("functions to 2^30 nodes", lambda: chain_functions(31, 2))
    yield item("functions to 10^12 nodes", lambda: chain_functions(7, 100))
    yield item("functions to 2^16 nodes", lambda: chain_functions(17, 2))
    yield item("a hundred functions deep", lambda: chain_functions(100, 1))
    yield item("a function that calls itself", lambda: recurse("a"))
    yield item("functions in a circle", lambda: recurse("a", "b", "c"))
    yield item("branches 3 deep", lambda: nest_branches(3))
    yield item("branches 12 deep", lambda: nest_branches(12))
    changes = ["circle", "two makers", "no operator", "unknown operator", "unknown domain", "imported unknown domain"]
    changes += ["input without a maker", "too many inputs", "opset twice", "opset 0", "opset -1", "opset 9999", "ir 0"]
    changes += ["ir 9999", "ir -1", "opset 1", f"opset {LONG_MAX}"]
    for change in changes:
        yield item(change, lambda change=change: spoil(change))
    yield item("wrong order", lambda: spoil("wrong order"), harmless="the same graph: ONNX Runtime sorts its nodes")
