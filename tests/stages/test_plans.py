"""What each stage's plan knows of a model: all of it, wherever its data lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.artifact import Provenance
from mbdeploy.stages import audit, bench, evaluate, halve, quantize, simplify, verify

Write = Callable[..., Path]
PLANS: dict[str, Callable[[Path, Path], Provenance]] = {
    "audit": lambda model, data: audit.plan(model),
    "audit --against": lambda model, data: audit.plan(data, against=model),
    "bench": lambda model, data: bench.plan([model], inputs=data),
    "evaluate": lambda model, data: evaluate.plan([model], data=str(data)),
    "evaluate --against": lambda model, data: evaluate.plan([data], against=model, data=str(data)),
    "halve": lambda model, data: halve.plan(model),
    "quantize": lambda model, data: quantize.plan(model, calibration=str(data)),
    "simplify": lambda model, data: simplify.plan(model),
    "verify": lambda model, data: verify.plan([model], golden=data),
    "verify --reference": lambda model, data: verify.plan([data], reference=model, data=str(data)),
}


@pytest.mark.parametrize("stage", PLANS)
def test_weights_that_lie_beside_a_model_and_were_swapped_make_no_plan_fresh(
    stage: str, write_mean_model: Write, tmp_path: Path, mean_images: np.ndarray
) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, inputs=mean_images, labels=np.arange(len(mean_images)) % 2)

    def ask(factor: float) -> tuple[bytes, Any]:
        (tmp_path / "weights.bin").unlink(missing_ok=True)  # (the writer would append to it)
        model = write_mean_model("net.onnx", factor=factor, external=True)
        return model.read_bytes(), PLANS[stage](model, data).key

    first, again, swapped = ask(2.0), ask(2.0), ask(3.0)
    assert first == again
    assert swapped[0] == first[0] and swapped[1] != first[1]


@pytest.mark.parametrize("stage", ["bench", "evaluate", "verify"])
def test_the_version_of_the_runtime_that_was_asked_for_is_a_tool(
    stage: str, write_mean_model: Write, mean_golden: Path, mean_images: np.ndarray
) -> None:
    model, data = [write_mean_model()], str(mean_golden.with_name("data.npz"))
    np.savez(data, inputs=mean_images, labels=np.zeros(len(mean_images), np.int64))
    plans: dict[str, Callable[[], Provenance]] = {
        "bench": lambda: bench.plan(model, providers=["openvino"]),
        "evaluate": lambda: evaluate.plan(model, data=data, provider="openvino"),
        "verify": lambda: verify.plan(model, providers=["cpu", "openvino"]),
    }
    assert {"mbdeploy", "numpy", "onnxruntime", "openvino"} <= set(plans[stage]().tools)
