"""Fixtures of the measuring stages: a model whose answer is known, its golden file, and targets that are made up."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.golden import Golden, write_golden
from mbdeploy.targets import TARGETS
from mbdeploy.targets.fake import FakeTarget

CLASSES = 3


@pytest.fixture
def mean_images() -> np.ndarray:
    """Twelve images (12, 3, 4, 4) from a seed."""
    return np.random.default_rng(0).normal(size=(12, CLASSES, 4, 4)).astype(np.float32)


@pytest.fixture
def write_mean_model(tmp_path: Path) -> Callable[..., Path]:
    """Write GlobalAveragePool -> Flatten -> Mul by ``factor``: the answer to x is ``factor * x.mean(axis=(2, 3))``.

    ``quantized`` puts Q/DQ with a step of 1/64 behind it; ``external`` puts the weights into weights.bin.
    """

    def write(
        name: str = "fp32.onnx",
        *,
        factor: float = 2.0,
        batch: int | str = "batch",
        quantized: bool = False,
        external: bool = False,
        metadata: dict[str, str] | None = None,
    ) -> Path:
        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flatten"),
            helper.make_node("Mul", ["f", "factor"], ["m" if quantized else "y"], "scale"),
        ]
        weights: dict[str, object] = {"factor": np.full(CLASSES, factor, np.float32)}
        if quantized:
            weights |= {"step": np.float32(1 / 64), "zero": np.uint8(128)}
            nodes += [
                helper.make_node("QuantizeLinear", ["m", "step", "zero"], ["q"], "q"),
                helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["y"], "dq"),
            ]
        graph = helper.make_graph(
            nodes,
            "mean",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, CLASSES, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(np.asarray(value), key) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        helper.set_model_props(model, metadata or {})
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if external:
            onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
        else:
            path.write_bytes(model.SerializeToString(deterministic=True))
        return path

    return write


@pytest.fixture
def mean_golden(tmp_path: Path, mean_images: np.ndarray) -> Path:
    """golden.npz beside the mean model: its images, and twice their means."""
    path = tmp_path / "golden.npz"
    golden = Golden(
        input=mean_images,
        outputs=(2 * mean_images.mean(axis=(2, 3)),),
        output_names=("y",),
        names=tuple(f"image {k}" for k in range(len(mean_images))),
    )
    write_golden(path, golden)
    return path


@pytest.fixture
def plug_fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, FakeTarget], str]:
    """Put a fake into the target table; the answer is the provider word that means it."""
    module = ModuleType("mbdeploy_fakes_of_one_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)

    def plug(name: str, fake: FakeTarget) -> str:
        setattr(module, name, lambda argument: msgspec.structs.replace(fake, name=name))
        monkeypatch.setitem(TARGETS, name, f"{module.__name__}:{name}")
        return f"cpu@{name}"

    return plug
