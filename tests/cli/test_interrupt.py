"""Endings that only a process of its own can show: Ctrl-C, a folder that is taken, a place that takes no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from mbdeploy import artifact
from mbdeploy.cli import EXIT_INTERRUPTED, program
from mbdeploy.errors import EXIT_BAD_INPUT

#: `python -m mbdeploy.cli`, where Ctrl-C is heard: the children of a shell's background job are told to ignore it.
LISTENING = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('mbdeploy.cli', run_name='__main__', alter_sys=True)"
)


def list_children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
def test_ctrl_c_leaves_no_child_and_nothing_half_written(tmp_path: Path, tiny_card: Path) -> None:
    output = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENING, "run", str(tiny_card), "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        wait_for(lambda: list_children(process.pid))
        children = list_children(process.pid)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == EXIT_INTERRUPTED
    assert said.strip() == "error: interrupted"
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    assert [path.name for path in output.rglob("*") if path.is_file()] == [".lock"]


def test_two_runs_on_one_folder_do_not_mix(tmp_path: Path, tiny_card: Path) -> None:
    with artifact.lock_folder(tmp_path / "out"):
        result = CliRunner().invoke(program, ["run", str(tiny_card), "--output", str(tmp_path / "out")])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "found a lock held by another process; wait for it to end" in result.stderr


@pytest.mark.parametrize("command", ["quantize", "export"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command: str, tmp_path: Path, conv_model_file: Path, tiny_card: Path
) -> None:
    (tmp_path / "file").write_bytes(b"")
    quantizing = [str(conv_model_file), "--calibration", str(tmp_path / "photos"), "--preprocess", "unit"]
    rest = quantizing if command == "quantize" else [str(tiny_card)]
    output = tmp_path / "file" / "result.onnx"
    result = CliRunner().invoke(program, [command, *rest, "--output", str(output)])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "expected a place that can be written" in result.stderr
    assert result.stdout == ""
