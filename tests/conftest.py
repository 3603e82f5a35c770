"""Fixtures that several tests share: a small hand-made ONNX model, a folder of synthetic photographs."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

# Tests run side by side with other work: one thread is enough for what they compute.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")


@pytest.fixture(scope="session")
def make_conv_model() -> Callable[..., onnx.ModelProto]:
    """Build Conv 3x3 -> Relu -> GlobalAveragePool -> Flatten -> Gemm over NCHW float32, weights from a seed.

    ``batch`` None is a dynamic batch called "batch"; the input is called ``name``, the output "logits".
    """
    return build_conv_model


@pytest.fixture
def conv_model_file(tmp_path: Path) -> Path:
    """The model of ``make_conv_model`` at its defaults, as a file."""
    path = tmp_path / "conv.onnx"
    path.write_bytes(build_conv_model().SerializeToString(deterministic=True))
    return path


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """A folder ``photos`` of six smooth synthetic RGB images of unlike sizes, as PNG, from a seed."""
    folder = tmp_path / "photos"
    write_photos(folder, count=6)
    return folder


@pytest.fixture(scope="session")
def make_photos() -> Callable[..., None]:
    """Write ``count`` smooth synthetic images into a folder: see ``write_photos``."""
    return write_photos


@pytest.fixture
def real_openvino() -> None:
    """Skip where OpenVINO is not installed."""
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("needs OpenVINO: pip install 'mbdeploy[openvino]'")


def build_conv_model(
    *,
    name: str = "image",
    batch: int | None = None,
    channels: int = 3,
    size: int = 16,
    width: int = 8,
    classes: int = 5,
    opset: int = 18,
    seed: int = 0,
) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    axis: int | str = "batch" if batch is None else batch
    weights = {
        "conv.weight": rng.normal(0, 0.3, (width, channels, 3, 3)),
        "conv.bias": rng.normal(0, 0.1, width),
        "fc.weight": rng.normal(0, 0.5, (classes, width)),
        "fc.bias": rng.normal(0, 0.1, classes),
    }
    nodes = [
        helper.make_node("Conv", [name, "conv.weight", "conv.bias"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["logits"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [axis, channels, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [axis, classes])],
        [numpy_helper.from_array(value.astype(np.float32), key) for key, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def write_photos(folder: Path, *, count: int, seed: int = 0) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = 24 + 4 * index, 40 - 2 * index
        coarse = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(folder / f"photo_{index}.png")
