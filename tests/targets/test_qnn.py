"""Qualcomm's NPU: its simulator answers here what the CPU does, and is never timed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.errors import UsageError
from mbdeploy.targets import Job, Session, open_target, parse_provider
from mbdeploy.tracing.script import Judgement, write_script

CPU, QNN = "CPUExecutionProvider", "QNNExecutionProvider"


@pytest.fixture(autouse=True)
def real_qnn() -> None:
    if importlib.util.find_spec("onnxruntime_qnn") is None:
        pytest.skip("onnxruntime-qnn is not installed: it has wheels for Python 3.11 and later, not for every machine")


@pytest.fixture
def int8_model(tmp_path: Path) -> Path:
    """Q -> DQ -> Conv (int8 weights, one scale a channel) -> Q -> DQ over x (batch, 3, 8, 8)."""
    random = np.random.default_rng(3)
    constants = {
        "xs": np.float32(0.02),
        "xz": np.uint8(128),
        "w": random.integers(-60, 61, (8, 3, 3, 3)).astype(np.int8),
        "ws": random.uniform(0.01, 0.02, 8).astype(np.float32),
        "wz": np.zeros(8, np.int8),
        "ys": np.float32(0.2),
        "yz": np.uint8(120),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"], "xq"),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"], "xd"),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], "wd", axis=0),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "ys", "yz"], ["yq"], "yq"),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"], "yd"),
    ]
    graph = helper.make_graph(
        nodes,
        "conv",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "int8.onnx"
    onnx.save(model, path)
    return path


def open_session(model: Path, word: str) -> Session:
    provider = parse_provider(word)
    return Session(model=model, provider=provider.ep, provider_options=dict(provider.options))


def test_the_simulator_answers_as_the_cpu_does_within_a_step(int8_model: Path) -> None:
    images = np.random.default_rng(4).normal(0, 0.8, (3, 3, 8, 8)).astype(np.float32)
    sessions = (open_session(int8_model, "cpu"), open_session(int8_model, "qnn"))
    cpu, qnn = open_target(parse_provider("qnn")).run(Job(kind="infer", sessions=sessions, inputs=images)).sessions
    assert qnn.outputs[0].shape == (3, 8, 8, 8)
    steps = np.rint((qnn.outputs[0] - cpu.outputs[0]) / 0.2)
    assert np.abs(steps).max() <= 1
    assert np.mean(steps == 0) > 0.9
    assert qnn.placement.nodes[QNN] >= 1
    assert all(
        node.operator in ("QuantizeLinear", "DequantizeLinear", "Transpose")
        for node in qnn.placement.ran
        if node.provider == CPU
    )
    assert qnn.placement.assigned[QNN]["Conv"] >= 1  # which was compiled into a node that does not say so
    assert "simulated" in qnn.settings


@pytest.mark.slow
def test_the_script_of_a_reduction_runs_there_by_itself(int8_model: Path) -> None:
    folder, images = int8_model.parent, np.random.default_rng(4).normal(0, 0.8, (3, 3, 8, 8)).astype(np.float32)
    here = (Session(model=int8_model, provider=CPU, optimization="none"),)
    (exact,) = open_target(parse_provider("cpu")).run(Job(kind="infer", sessions=here, inputs=images)).sessions
    np.savez(folder / "arrays.npz", x=images, expected=exact.outputs[0], zero_point=np.int64(0))
    for bound, code in ((10.0, 0), (1000.0, 10)):  # it rounds otherwise here and there
        script = write_script(
            command="python show.py",
            story="for a test",
            opening="plug-in",
            plug_in="onnxruntime-qnn",
            version="1",
            provider=QNN,
            provider_options=dict(parse_provider("qnn").options),
            threads=1,
            sessions={
                "exact": (int8_model.name, "ORT_DISABLE_ALL", {}, False),
                "as executed": (int8_model.name, "ORT_ENABLE_ALL", {}, True),
            },
            scale=None,
            judgement=Judgement(metric="sqnr_db", bound=bound),
        )
        (folder / "show.py").write_text(script)
        command = [sys.executable, "-I", str(folder / "show.py")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == code, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bench", "memory"])
def test_a_simulator_is_never_timed(int8_model: Path, kind: str) -> None:
    images = np.zeros((1, 3, 8, 8), np.float32)
    job = Job(kind=kind, sessions=(open_session(int8_model, "qnn"),), inputs=images, batch_size=1)
    with pytest.raises(UsageError, match="an emulated one, on which times do not exist"):
        open_target(parse_provider("qnn")).run(job)
    with pytest.raises(UsageError, match=r"a simulator .* on which times do not exist"):  # the agent knows it, too
        open_target(parse_provider("cpu")).run(job)


def test_it_is_there_beside_plain_onnxruntime(real_qnn: None) -> None:
    answer = open_target(parse_provider("cpu")).run(Job(kind="probe"))
    assert QNN in answer.host.providers
    assert "qnn" not in answer.absent
