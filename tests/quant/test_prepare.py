"""What is rewritten before a model is quantized computes the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from mbdeploy.quant.prepare import split_padded_pools


def make_pool(**attributes) -> onnx.ModelProto:
    node = helper.make_node("AveragePool", ["x"], ["y"], "pool", kernel_shape=[3, 3], strides=[2, 2], **attributes)
    graph = helper.make_graph(
        [node],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 7, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 1, 1, 0]])
def test_padding_that_a_pool_counts_becomes_a_pad_of_its_own(pads: list[int]) -> None:
    model = make_pool(pads=pads, count_include_pad=1)
    x = np.random.default_rng(0).normal(1, 1, (1, 2, 7, 6)).astype(np.float32)
    before = run(model, x)
    split_padded_pools(model)
    assert [node.op_type for node in model.graph.node] == ["Pad", "AveragePool"]
    np.testing.assert_allclose(run(model, x), before, rtol=1e-6)


@pytest.mark.parametrize(
    "attributes",
    [{"pads": [1, 1, 1, 1]}, {"count_include_pad": 1}, {"pads": [1, 1, 1, 1], "count_include_pad": 1, "ceil_mode": 1}],
)
def test_other_pools_stay_as_they_are(attributes: dict[str, object]) -> None:
    model = make_pool(**attributes)
    before = model.SerializeToString()
    split_padded_pools(model)
    assert model.SerializeToString() == before
