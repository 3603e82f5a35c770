"""Heads of detectors stay in float, whatever their layout; bodies that a Concat ends do not."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

import mbdeploy
from mbdeploy.quant.heads import find_heads

#: A body of one convolution, and then what a test adds, with nodes named after what they make.
TEXT = """<ir_version: 8, opset_import: ["" : 17]>
head (float[N,3,8,8] image, float[4,3,3,3] w, float[4,4,1,1] v, float[1] grid, float[1] stride,
      int64[3] flat, int64[2] parts) => (float y) {{
{body}
}}"""
DETECTOR = """
c = Conv (image, w)
boxes, scores = Split <axis = 1> (c, parts)
moved = Add (boxes, grid)
pixels = Mul (moved, stride)
probable = Sigmoid (scores)
joined = Concat <axis = 1> (pixels, probable)
y = Reshape (joined, flat)
"""


def build(body: str) -> onnx.ModelProto:
    model = onnx.parser.parse_model(TEXT.format(body=body))
    for node in model.graph.node:
        node.name = node.output[0]
    draw = np.random.default_rng(0)
    constants = {
        "w": draw.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "v": draw.normal(0, 0.3, (4, 4, 1, 1)).astype(np.float32),
        "grid": np.array([4], np.float32),
        "stride": np.array([80], np.float32),
        "flat": np.array([0, 4, -1]),
        "parts": np.array([2, 2]),
    }
    image = model.graph.input[0]
    del model.graph.input[:]
    model.graph.input.append(image)
    used = {name for node in model.graph.node for name in node.input}
    for name, value in constants.items():
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    return model


@pytest.mark.parametrize(
    ("body", "head"),
    [
        (DETECTOR, {"moved", "pixels", "probable", "joined", "y", "boxes"}),
        # Scores alone beside what a convolution made are unlike, too.
        ("c = Conv (image, w)\ns = Sigmoid (c)\ny = Concat <axis = 1> (c, s)", {"s", "y"}),
        # A Concat of what convolutions made is a body's end; with a layer behind it, it is no end at all.
        ("c = Conv (image, w)\nr = Relu (c)\ny = Concat <axis = 1> (c, r)", set()),
        ("c = Conv (image, w)\ns = Sigmoid (c)\nm = Mul (c, s)\nn = Add (m, c)\ny = Concat <axis = 1> (n, m)", set()),
        (
            "c = Conv (image, w)\ns = Sigmoid (c)\nj = Concat <axis = 0> (c, s)\ny = Conv (j, v)",
            set(),
        ),
        # A map of probabilities that nothing joins has a scale of its own.
        ("c = Conv (image, w)\ny = Sigmoid (c)", set()),
    ],
)
def test_a_head_is_what_joins_unlike_things_behind_the_last_layers(body: str, head: set[str]) -> None:
    assert find_heads(build(body)) == head


@pytest.mark.slow
def test_scores_beside_boxes_in_pixels_are_as_good_as_alone(tmp_path) -> None:
    model = build(DETECTOR)
    source, made = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    onnx.save(model, source)
    images = np.random.default_rng(1).normal(0, 1, (16, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=images)
    mbdeploy.quantize(source, output=made, calibration=str(tmp_path / "images.npz"), recipe="portable")
    right, found = (onnxruntime.InferenceSession(path).run(None, {"image": images})[0] for path in (source, made))
    assert right[:, :2].max() > 300 and right[:, 2:].max() < 1
    assert np.abs(right[:, 2:] - found[:, 2:]).max() < 0.02
    assert {"DequantizeLinear", "QuantizeLinear"} <= {
        node.op_type for node in onnx.load(tmp_path / "int8.onnx").graph.node
    }
