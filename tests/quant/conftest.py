"""Fixtures of the quantization tests: graphs by hand, images whose channels go together, and jobs without a child."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.isolate import Outcome, Verdict, ignore_progress
from mbdeploy.records import QuantizeRecord
from mbdeploy.stages import quantize as quantize_stage
from mbdeploy.stages.quantize_job import quantize_model


@pytest.fixture(scope="session")
def make_graph() -> Callable[..., onnx.ModelProto]:
    """Build a model from nodes and constants: see ``build_graph``."""
    return build_graph


@pytest.fixture(scope="session")
def run_graph() -> Callable[..., list[np.ndarray]]:
    """Run a model or a file: see ``run_model``."""
    return run_model


@pytest.fixture(scope="session")
def draw_images() -> Callable[..., np.ndarray]:
    """Smooth images in which channels go together, as in photographs: (count, channels, size, size) from a seed."""

    def draw(count: int, *, channels: int = 3, size: int = 12, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        common = rng.normal(0, 1, (count, 1, size, size)) + rng.normal(0, 0.3, (count, channels, size, size))
        for axis in (2, 3):
            common = common + np.roll(common, 1, axis)
        return common.astype(np.float32)

    return draw


@pytest.fixture
def quantize_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[onnx.ModelProto, QuantizeRecord]]:
    """Quantize a model as the stage does, but without its child: the INT8 model and the record."""

    def run_here(function: str, request: dict[str, Any], **keywords: Any) -> Outcome:
        value = quantize_model(json.loads(json.dumps(request)), ignore_progress)
        return Outcome(verdict=Verdict.OK, value=json.loads(json.dumps(value)))

    def quantize(model: onnx.ModelProto, images: np.ndarray, **options: Any) -> tuple[onnx.ModelProto, QuantizeRecord]:
        monkeypatch.setattr(quantize_stage, "run_step", run_here)
        (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
        np.savez(tmp_path / "calibration.npz", inputs=images)
        options = {"calibration": str(tmp_path / "calibration.npz"), "preprocess": "raw", **options}
        record = quantize_stage.quantize(
            tmp_path / "float.onnx", output=tmp_path / "int8.onnx", num_calibration_samples=len(images), **options
        )
        return onnx.load(tmp_path / "int8.onnx"), record

    return quantize


def build_graph(
    nodes: Sequence[onnx.NodeProto],
    constants: Mapping[str, Any],
    *,
    shape: Sequence[int | str] = ("n", 3, 12, 12),
    name: str = "image",
    output: str = "out",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model with one float input and one float output; float64 constants become float32."""
    arrays = {key: np.asarray(value) for key, value in constants.items()}
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, key)
            for key, value in arrays.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


def run_model(
    model: onnx.ModelProto,
    images: np.ndarray,
    outputs: Sequence[str] | None = None,
    *,
    exact: bool = False,
) -> list[np.ndarray]:
    """The values of ``outputs``, all of the model's by default; ``exact`` turns every optimisation off."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    known = {value.name for value in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs or () if name not in known)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    values: list[np.ndarray] = session.run(list(outputs) if outputs else None, {name: images})
    return values
