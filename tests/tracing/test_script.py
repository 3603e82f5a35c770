"""Scripts of reductions, each run in a fresh process: what ends in which code, and what is judged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.tracing.faults import holds_bound, is_degenerate, measure_fault
from mbdeploy.tracing.script import Judgement, write_script

pytestmark = pytest.mark.slow  # each test starts processes

CPU = "CPUExecutionProvider"
SHOWN, NOT_SHOWN, UNAVAILABLE, UNKNOWN = 10, 0, 3, 4
IMAGES = np.array([[1, 2, -3], [2, -1, 1], [-1, 5, 2]], np.float32)
#: Runs show.py after some words of Python.
PROLOGUE = "import runpy, sys; {}; runpy.run_path(sys.argv[1], run_name='__main__')"


def write(folder: Path, *operators: str, batch: int | str = "n", bound: float = 20.0, **parts: Any) -> Path:
    """The script for models of one operator each over IMAGES (3, 3), in a folder with them; the first is right."""
    for number, operator in enumerate(operators):
        half = operator == "Half"  # of everything
        node = helper.make_node("HardSigmoid" if half else operator, ["x"], ["y"], **({"alpha": 0.0} if half else {}))
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3]) for name in "xy")
        graph = helper.make_graph([node], "one", [x], [y])
        opset = [helper.make_opsetid("", 18)]
        onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), folder / f"{number}.onnx")
    expected = {"Relu": np.maximum(IMAGES, 0), "Identity": IMAGES, "Abs": np.abs(IMAGES)}[operators[0]]
    np.savez(folder / "arrays.npz", x=IMAGES, expected=expected, zero_point=np.int64(0))
    sessions = {f"{k} {name}": (f"{k}.onnx", "ORT_DISABLE_ALL", {}, k > 0) for k, name in enumerate(operators)}
    told: dict[str, Any] = {
        "command": "python show.py",
        "story": "for a test",
        "opening": "built in",
        "plug_in": "",
        "version": "1",
        "provider": CPU,
        "provider_options": {},
        "threads": 1,
        "sessions": sessions,
        "scale": None,
        "judgement": Judgement(metric="sqnr_db", bound=bound),
    }
    path = folder / "show.py"
    path.write_text(write_script(**{**told, **parts}), encoding="utf-8")
    return path


def run(script: Path, first: str = "pass") -> tuple[int, str]:
    """The exit code of a script, and all that it said."""
    command = [sys.executable, "-I", "-c", PROLOGUE.format(first), str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("operators", "judgement", "code"),
    [
        (["Relu", "Relu"], Judgement(metric="sqnr_db", bound=20.0), NOT_SHOWN),
        (["Relu", "Log"], Judgement(metric="sqnr_db", bound=20.0), SHOWN),  # NaN and -inf
        (["Relu", "Log"], Judgement(metric="unlike", bound=0.0), SHOWN),
        (["Relu", "Identity"], Judgement(metric="top1_agreement", bound=0.9), NOT_SHOWN),  # far off, the same class
        (["Identity", "Half"], Judgement(metric="top1_agreement", bound=0.0, refuses_degenerate=True), SHOWN),
    ],
)
def test_the_metric_that_failed_decides(operators: list[str], judgement: Judgement, code: int, tmp_path: Path) -> None:
    assert run(write(tmp_path, *operators, judgement=judgement))[0] == code


def test_a_fixed_batch_gets_its_images_so_many_at_a_time(tmp_path: Path) -> None:
    code, said = run(write(tmp_path, "Relu", "Identity", batch=2))
    assert code == SHOWN and "SQNR     inf dB" in said, said


def test_a_provider_that_is_not_there_does_not_fall_back(tmp_path: Path) -> None:
    code, said = run(write(tmp_path, "Relu", "Identity", provider="NoSuchExecutionProvider"))
    assert code == UNAVAILABLE and "NoSuchExecutionProvider is not in this onnxruntime" in said


@pytest.mark.parametrize("opening", ["plug-in", "openvino"])
def test_a_package_that_is_not_there_is_named(opening: str, tmp_path: Path) -> None:
    parts = {"opening": opening, "plug_in": opening.replace("plug-in", "no_such_package"), "provider": "Own"}
    code, said = run(write(tmp_path, "Relu", "Identity", **parts), "sys.modules['openvino'] = None")
    assert code == UNAVAILABLE and parts["plug_in"] in said.splitlines()[-1], said


def test_without_onnxruntime_nothing_can_be_run(tmp_path: Path) -> None:
    code, said = run(write(tmp_path, "Relu", "Identity"), "sys.modules['onnxruntime'] = None")
    assert code == UNAVAILABLE and "onnxruntime" in said


def test_where_what_should_be_right_is_not_nobody_can_tell(tmp_path: Path) -> None:
    script = write(tmp_path, "Relu", "Identity")
    (tmp_path / "0.onnx").write_bytes((tmp_path / "1.onnx").read_bytes())
    assert run(script)[0] == UNKNOWN


def test_a_script_that_fails_never_says_that_the_difference_is_there(tmp_path: Path) -> None:
    script = write(tmp_path, "Relu", "Identity")
    (tmp_path / "1.onnx").write_bytes(b"nothing")
    code, said = run(script)
    assert code not in (SHOWN, NOT_SHOWN, UNAVAILABLE, UNKNOWN) and "Traceback" in said


def test_sessions_have_the_threads_of_the_cell(tmp_path: Path) -> None:
    telling = (
        "import onnxruntime as ort; made = ort.InferenceSession; "
        "ort.InferenceSession = lambda path, options, **more: "
        "print('threads', options.intra_op_num_threads) or made(path, options, **more)"
    )
    _, said = run(write(tmp_path, "Relu", "Identity", threads=4), telling)
    assert said.count("threads 4") == 2


def test_two_nans_in_one_place_are_equal_and_a_number_beside_one_is_not() -> None:
    nan, inf = np.nan, np.inf
    expected = np.array([[1, nan, inf, 2]])
    assert measure_fault("sqnr_db", expected, expected) == inf and measure_fault("unlike", expected, expected) == 0
    found = np.array([[1, 1, -inf, nan]])
    assert measure_fault("unlike", expected, found) == 3
    assert not holds_bound("sqnr_db", measure_fault("sqnr_db", expected, found), -1000)
    assert not holds_bound("max_abs", measure_fault("max_abs", expected, found[:, :2]), inf)


def test_one_value_throughout_or_one_answer_to_all_images_is_degenerate() -> None:
    assert is_degenerate(IMAGES, np.zeros_like(IMAGES)) and is_degenerate(IMAGES, IMAGES[:1].repeat(3, axis=0))
    assert not is_degenerate(IMAGES, -IMAGES)


def test_faults_are_measured_as_gates_are() -> None:
    rng = np.random.default_rng(0)
    expected, found = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    metrics = compare_outputs(expected, found)
    for name in ("sqnr_db", "max_abs", "top1_agreement"):
        assert measure_fault(name, expected, found) == pytest.approx(getattr(metrics, name), rel=1e-12)
    assert measure_fault("sqnr_db", np.zeros((2, 2)), np.ones((2, 2))) == -np.inf
