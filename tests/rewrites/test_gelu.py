"""GELU in the order of its products that ONNX Runtime fuses; anything that only looks like it stays."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mbdeploy.rewrites import rewrite_model

NAME = "gelu"
CONSTANTS = {"root": 2**0.5, "inverse": 0.5**0.5, "one": 1.0, "half": 0.5, "two": 2.0}
DIV = "d = Div (image, root) e = Erf (d) a = Add (e, one)"
ENDING = "h = Mul (half, a) y = Mul (image, h)"


@pytest.mark.parametrize(
    "nodes",
    [
        f"{DIV} {ENDING}",
        f"d = Mul (inverse, image) e = Erf (d) a = Add (one, e) {ENDING}",
        "d = Mul (image, inverse) e = Erf (d) a = Add (e, one) h = Mul (a, half) y = Mul (h, image)",
    ],
)
def test_it_is_reordered(rewritten, nodes: str) -> None:
    assert rewritten(NAME, nodes, **CONSTANTS) == "Div Erf Add Mul Mul"


def test_in_that_order_onnx_runtime_fuses_it(build_graph, tmp_path: Path) -> None:
    model = ir.from_proto(build_graph(f"{DIV} {ENDING}", **CONSTANTS))
    rewrite_model(model, [NAME])
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node] == ["Gelu"]


@pytest.mark.parametrize(
    "nodes",
    [
        f"{DIV} m = Mul (image, a) y = Mul (m, half)",
        f"d = Div (root, image) e = Erf (d) a = Add (e, one) {ENDING}",
        f"d = Div (image, two) e = Erf (d) a = Add (e, one) {ENDING}",
        f"d = Mul (image, root) e = Erf (d) a = Add (e, one) {ENDING}",
        f"d = Div (image, root) e = Erf (d) a = Add (e, two) {ENDING}",
        f"d = Div (image, root) e = Erf (d) a = Sub (e, one) {ENDING}",
        f"{DIV} h = Mul (two, a) y = Mul (image, h)",
        f"{DIV} h = Mul (half, a) y = Mul (d, h)",
        f"{DIV} h = Mul (half, a) y = Add (image, h)",
        f"{DIV} h = Mul (half, a) m = Mul (image, h) y = Add (m, h)",
        f"{DIV} h = Mul (half, a) m = Mul (image, h) y = Add (m, e)",
        f"{DIV} h = Mul (half, a) m = Mul (image, h) y = Add (m, d)",
        "e = Erf (image) a = Add (e, one) h = Mul (half, a) y = Mul (image, h)",
        f"r = Relu (image) {DIV} h = Mul (half, a) y = Mul (r, h)",
    ],
)
def test_what_is_no_gelu_or_is_in_that_order_stays(rewritten, nodes: str) -> None:
    assert rewritten(NAME, nodes, **CONSTANTS) is None
