"""Fixtures for targets: a model small enough to know its answer, and every target that is present here."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from boards import Board, serving_board
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.targets.emulation import build, prefix, wheels


@pytest.fixture
def make_mean_model(tmp_path: Path) -> Callable[..., Path]:
    """Write GlobalAveragePool -> Flatten -> Mul by 2: the answer to x is ``2 * x.mean(axis=(2, 3))``."""

    def make(name: str = "mean.onnx", *, batch: int | str = "batch", outputs: int = 1) -> Path:
        nodes = [
            helper.make_node("GlobalAveragePool", ["x"], ["p"], "pool"),
            helper.make_node("Flatten", ["p"], ["f"], "flatten"),
            *(helper.make_node("Mul", ["f", "two"], [f"y{k}"], f"double{k}") for k in range(outputs)),
        ]
        graph = helper.make_graph(
            nodes,
            "mean",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
            [helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, [batch, 3]) for k in range(outputs)],
            [numpy_helper.from_array(np.float32(2), "two")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path

    return make


@pytest.fixture
def write_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model of these nodes over x (batch, 3, 4, 4), with y of any shape, weights by name."""

    def write(nodes: list[onnx.NodeProto], name: str = "model.onnx", **weights: np.ndarray) -> Path:
        graph = helper.make_graph(
            nodes,
            "model",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, key) for key, value in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        path = tmp_path / name
        path.write_bytes(model.SerializeToString(deterministic=True))
        return path

    return write


@pytest.fixture
def images() -> np.ndarray:
    """Seven images (7, 3, 4, 4) from a seed."""
    return np.random.default_rng(0).normal(size=(7, 3, 4, 4)).astype(np.float32)


@pytest.fixture
def stand_in_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs called apt-get, apt-cache, dpkg-deb, qemu-aarch64 and (pip's) python, alone on the PATH.

    What they do is in stand_ins.py; the cache lies in ``tmp_path / "cache"``.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    source = Path(__file__).with_name("stand_ins.py").read_text(encoding="utf-8")
    for name in ("apt-get", "apt-cache", "dpkg-deb", "qemu-aarch64", "python"):
        (folder / name).write_text(f"#!{sys.executable} -SE\n{source}", encoding="utf-8")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels.sys, "executable", str(folder / "python"))
    monkeypatch.setattr(prefix, "find_onnxruntime", lambda: "1.2.3")
    monkeypatch.setattr(build, "find_onnxruntime", lambda: "1.2.3")
    return folder


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board on loopback, alone with the test."""
    with serving_board(tmp_path / "board") as made:
        yield made
