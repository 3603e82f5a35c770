"""The benchmark of what quantizing costs: every method over minmax, in one command."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from mbdeploy.stages.material import METHODS


@pytest.fixture(scope="module")
def cost() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "quantize_cost.py"
    spec = importlib.util.spec_from_file_location("quantize_cost", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_method_is_put_over_the_minmax_of_its_own_tool_and_ours_over_the_peer(cost: ModuleType) -> None:
    table = cost.summarise(
        {
            ("minmax", "quantize_static"): [(8.0, 400_000_000)],
            ("minmax", "mbdeploy"): [(3.0, 90_000_000), (4.0, 100_000_000), (99.0, 110_000_000)],
            ("mse", "quantize_static"): [(20.0, 800_000_000)],
            ("mse", "mbdeploy"): [(6.0, 150_000_000)],
        }
    )
    assert table["minmax"]["mbdeploy"] == {"cpu_s": 4.0, "peak_mb": 100}
    assert table["minmax"]["ratio"] == {"cpu_s": 0.5, "peak_mb": 0.25}
    assert table["mse"]["mbdeploy over_minmax"] == {"cpu_s": 1.5, "peak_mb": 1.5}
    assert table["mse"]["quantize_static over_minmax"] == {"cpu_s": 2.5, "peak_mb": 2.0}
    assert "mbdeploy over_minmax" not in table["minmax"]


def test_the_methods_are_those_of_the_program_and_each_gets_a_command(cost: ModuleType) -> None:
    assert set(cost.METHODS) == set(METHODS)
    given = argparse.Namespace(
        model="m.onnx", images="i", preprocess="lite", num_images=8, recipe="portable", ours_only=False
    )
    for method in METHODS:
        for command in cost.list_commands(given, method, "folder").values():
            assert method in command
    assert list(cost.list_commands(argparse.Namespace(**{**vars(given), "ours_only": True}), "mse", "f")) == [cost.OURS]
