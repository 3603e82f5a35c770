"""What items are made of: a small sound model around hostile nodes, and the canary that must never be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

#: Lies in a file that links and locations point to; nothing that mbdeploy writes or says may hold it.
CANARY = b"CANARY-7f3a-these-bytes-are-a-secret"
SIZE = 8
CLASSES = 5
INT_MIN, INT_MAX = -(2**31), 2**31 - 1
LONG_MIN, LONG_MAX = -(2**63), 2**63 - 1
Make = Callable[[Path], None]


@dataclass(frozen=True)
class Item:
    """One hostile file: ``make`` writes ``model.onnx`` (and what it points to) into a folder.

    ``harmless`` is the reason why a command may end well on it, or nothing. ``command`` is ``verify`` (against the
    outputs of the sound model), or another one that opens it.
    """

    name: str
    make: Make
    harmless: str = ""
    command: str = "verify"


def wrap(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any] | None = None,
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Mapping[str, int] | None = None,
    opset: int = 18,
    tensors: Iterable[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    """image (n, 3, 8, 8) -> ``nodes``, which make "h" of "image" -> GlobalAveragePool -> Flatten -> Gemm -> logits."""
    rng = np.random.default_rng(7)
    tail = [
        helper.make_node("GlobalAveragePool", ["h"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    weights = {
        "fc.weight": rng.normal(0, 0.5, (CLASSES, 3)).astype(np.float32),
        "fc.bias": rng.normal(0, 0.1, CLASSES).astype(np.float32),
        **(constants or {}),
    }
    graph = helper.make_graph(
        [*nodes, *tail],
        "hostile",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [*(numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()), *tensors],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*pair) for pair in (domains or {}).items())]
    return helper.make_model(graph, functions=list(functions), opset_imports=opsets, ir_version=10)


def sound_model() -> onnx.ModelProto:
    """The model that all items are spoilt copies of: one convolution that keeps the size, then the tail."""
    return wrap([helper.make_node("Conv", ["image", "w"], ["h"], "conv", pads=[1] * 4)], {"w": make_kernel()})


def make_kernel() -> np.ndarray:
    return np.random.default_rng(8).normal(0, 0.3, (3, 3, 3, 3)).astype(np.float32)


def save(model: onnx.ModelProto, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def item(name: str, model: onnx.ModelProto | Callable[[], onnx.ModelProto], **more: Any) -> Item:
    """An item that is one file."""
    return Item(name, lambda folder: save(model() if callable(model) else model, folder), **more)


def raw_item(name: str, data: bytes, **more: Any) -> Item:
    """An item of these very bytes."""

    def make(folder: Path) -> None:
        (folder / "model.onnx").write_bytes(data)

    return Item(name, make, **more)


def node_item(name: str, operator: str, constants: Mapping[str, Any] | None = None, **attributes: Any) -> Item:
    """An item in which one node of the image path has these attributes."""
    more = {key: attributes.pop(key) for key in ("harmless", "command") if key in attributes}
    inputs = attributes.pop("inputs", ["image", *(constants or {})])
    node = helper.make_node(operator, inputs, ["h"], "bad", **attributes)
    return item(name, wrap([node], constants), **more)


def side_item(name: str, nodes: Sequence[onnx.NodeProto], constants: Mapping[str, Any], **more: Any) -> Item:
    """An item with nodes beside a sound path, whose result "side" (a number) is added to the image."""
    joined = [
        *nodes,
        helper.make_node("Cast", ["side"], ["side.float"], "cast", to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["side.float"], ["side.mean"], "mean", keepdims=0),
        helper.make_node("Add", ["image", "side.mean"], ["h"], "join"),
    ]
    return item(name, wrap(joined, constants), **more)
