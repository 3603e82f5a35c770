"""Small graphs from text; every one of them is put through every rewrite, and must go on computing the same."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from mbdeploy.rewrites import REWRITES, load_rewrite, rewrite_model


@pytest.fixture
def build_graph() -> Callable[..., onnx.ModelProto]:
    """Build a model ``image`` (N, 3, 8, 8) → ``y`` from nodes in ONNX text: see ``build``."""
    return build


@pytest.fixture
def assert_same() -> Callable[[onnx.ModelProto, onnx.ModelProto], None]:
    """Assert that two models give the same outputs, to float rounding, at batch 1 and 3."""
    return compare


@pytest.fixture
def rewritten() -> Callable[..., str | None]:
    """Build a graph and apply one rewrite: the operators afterwards, in order, or None if it changed nothing.

    Besides, the graph goes through every rewrite in turn, and through all of them to the fixed point,
    and after every change it must compute the same.
    """

    def check(rewrite: str, nodes: str, *, opset: int = 17, **constants: Any) -> str | None:
        model = build(nodes, opset=opset, **constants)
        walked = ir.from_proto(model)
        rewrite_model(walked, [])  # names and shapes, as a rewrite may expect them
        for name in REWRITES:
            if load_rewrite(name)(walked):
                compare(model, ir.to_proto(walked))
                rewrite_model(walked, [])
        compare(model, apply(model, list(REWRITES))[0])
        result, count = apply(model, [rewrite])
        compare(model, result)
        return " ".join(node.op_type for node in result.graph.node) if count else None

    return check


def build(nodes: str, *, opset: int = 17, **constants: Any) -> onnx.ModelProto:
    """``constants``: a tuple is the shape of random weights, a list int64 values, a number a scalar of its type."""
    header = f'<ir_version: 8, opset_import: ["": {opset}]>'
    model = parser.parse_model(f"{header} g (float[N,3,8,8] image) => (float y) {{ {nodes} }}")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for name, value in constants.items():
        if isinstance(value, tuple):
            array = np.random.default_rng(zlib.crc32(name.encode())).uniform(0.2, 1, value).astype(np.float32)
        else:
            array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def apply(model: onnx.ModelProto, names: list[str]) -> tuple[onnx.ModelProto, int]:
    rewrites = ir.from_proto(model)
    changes = rewrite_model(rewrites, names)
    assert all(change.count == len(change.nodes) > 0 for change in changes)
    return ir.to_proto(rewrites), sum(change.count for change in changes)


def compare(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    if before.SerializeToString() == after.SerializeToString():
        return
    for batch in (1, 3):
        image = np.random.default_rng(batch).normal(0, 2, (batch, 3, 8, 8)).astype(np.float32)
        wanted, found = run(before, image), run(after, image)
        assert list(found) == list(wanted)
        for name, want in wanted.items():
            assert found[name].shape == want.shape
            np.testing.assert_allclose(found[name], want, rtol=1e-5, atol=1e-5)


def run(model: onnx.ModelProto, image: np.ndarray) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": image}), strict=True))
