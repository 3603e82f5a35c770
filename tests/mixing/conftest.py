"""Fixtures of the search over mixed precision: a small residual network, its kit, and made-up mixes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.estimate import Interval
from mbdeploy.mixing.kit import Kit, read_kit
from mbdeploy.mixing.report import Mix
from mbdeploy.stages.quantize import quantize


@pytest.fixture(scope="session")
def residual_model() -> onnx.ModelProto:
    """stem (relu) -> expand (relu) -> depthwise (relu) -> project, + stem -> pool -> classes; 12 x 12 images."""
    return build_residual()


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Eight images of noise (8, 3, 12, 12)."""
    return np.random.default_rng(3).normal(0, 1, (8, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="session")
def build_kit(tmp_path_factory: pytest.TempPathFactory, images: np.ndarray) -> Callable[[onnx.ModelProto], Kit]:
    """What ``quantize`` leaves of a model of these images."""
    return lambda model: read_kit(make_kit(tmp_path_factory.mktemp("kit"), model, images))


@pytest.fixture(scope="session")
def kit(build_kit: Callable[[onnx.ModelProto], Kit], residual_model: onnx.ModelProto) -> Kit:
    """What ``quantize`` leaves of the residual model."""
    return build_kit(residual_model)


@pytest.fixture(scope="session")
def make_mix() -> Callable[..., Mix]:
    """A mix by its ratio, SQNR and drop; its interval is ``width`` to either side."""

    def make(name: str, ratio: float, sqnr_db: float, *, drop: float = 0.0, width: float = 0.01, **more: Any) -> Mix:
        return Mix(
            name=name,
            keep_float=(),
            ratio=make_interval(ratio, width),
            sqnr_db=sqnr_db,
            drop=make_interval(drop, 0.5),
            size_bytes=1000,
            reward=more.get("reward", 1.0),
            on_front=False,
        )

    return make


def make_interval(value: float, width: float) -> Interval:
    return Interval(value=value, low=value - width, high=value + width, n=100, confidence=0.95)


def make_kit(folder: Path, model: onnx.ModelProto, images: np.ndarray, **options: Any) -> Path:
    (folder / "float.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "images.npz", inputs=images)
    (folder / "kit").mkdir()
    given = {"calibration": str(folder / "images.npz"), "recipe": "portable", **options}
    quantize(folder / "float.onnx", output=folder / "int8.onnx", kit=folder / "kit", preprocess="raw", **given)
    return folder / "kit"


def build_residual() -> onnx.ModelProto:
    random = np.random.default_rng(1)
    shapes = {"stem": (6, 3, 3, 3), "expand": (20, 6, 1, 1), "depthwise": (20, 1, 3, 3), "project": (6, 20, 1, 1)}
    constants = {}
    for name, shape in shapes.items():
        constants[f"{name}.w"] = random.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
        constants[f"{name}.b"] = random.normal(0, 0.1, shape[0])
    constants["head.w"], constants["head.b"] = random.normal(0, 1, (5, 6)), random.normal(0, 0.1, 5)

    def conv(name: str, source: str, target: str, **attributes: Any) -> onnx.NodeProto:
        return helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [target], name, **attributes)

    nodes = [
        conv("stem", "image", "s", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["s"], ["stem_out"], "stem.relu"),
        conv("expand", "stem_out", "e"),
        helper.make_node("Relu", ["e"], ["expanded"], "expand.relu"),
        conv("depthwise", "expanded", "d", pads=[1, 1, 1, 1], group=20),
        helper.make_node("Relu", ["d"], ["filtered"], "depthwise.relu"),
        conv("project", "filtered", "p"),
        helper.make_node("Add", ["stem_out", "p"], ["sum"], "add"),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "head.w", "head.b"], ["logits"], "head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 5])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
