"""Graphs by hand: a model from nodes, and its inspection without a child process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.costs.inspection import inspect_model
from mbdeploy.costs.report import InspectReport

Shape = Sequence[int | str | None]


@pytest.fixture
def make_model() -> Callable[..., onnx.ModelProto]:
    """Build a model from nodes; weights are arrays by name; input "x", output "y" unless named."""
    return build_model


@pytest.fixture
def look() -> Callable[..., InspectReport]:
    """Inspect a model in this process."""

    def inspect(model: onnx.ModelProto, **options: Any) -> InspectReport:
        return inspect_model(model, name="model.onnx", size_bytes=model.ByteSize(), **options)

    return inspect


def build_model(
    nodes: Sequence[onnx.NodeProto],
    shape: Shape,
    weights: Mapping[str, Any] | None = None,
    *,
    output: str = "y",
    kind: int = TensorProto.FLOAT,
    opset: int = 18,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", kind, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        initializers,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)
