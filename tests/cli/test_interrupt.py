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
from mbdeploy.cli import EXIT_INTERRUPTED, EXIT_TERMINATED, program
from mbdeploy.errors import EXIT_BAD_INPUT
from mbdeploy.pipeline import STAGES
from mbdeploy.provenance.checking import verify_artifacts

Start = Callable[..., subprocess.Popen[str]]


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
def test_ctrl_c_leaves_no_child_and_nothing_half_written(
    tmp_path: Path, tiny_card: Path, start_listening: Start
) -> None:
    output = tmp_path / "out"
    process = start_listening("run", str(tiny_card), "--output", str(output))
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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are looked up in /proc")
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [
        (signal.SIGINT, EXIT_INTERRUPTED, "interrupted"),
        pytest.param(signal.SIGTERM, EXIT_TERMINATED, "terminated", marks=pytest.mark.sweep),
    ],
)
def test_a_signal_in_any_stage_leaves_no_child_no_half_file_and_a_run_that_goes_on(
    tmp_path: Path,
    make_onnx_card: Callable[..., Path],
    start_listening: Start,
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    """One run after another, each ended in the next stage; the last one completes."""
    output = tmp_path / "out"
    words = ["run", str(make_onnx_card(tmp_path)), "--output", str(output), "--fast", "--min-duration", "0.5"]
    for place, stage in enumerate(STAGES[:-1]):  # the report is made in this process, in less time than a signal takes
        process = start_listening(*words)
        assert process.stderr is not None
        try:
            said = [process.stderr.readline() for _ in range(place)]  # a line for each stage that is done
            wait_for(lambda process=process: list_children(process.pid))
            children = list_children(process.pid)
            process.send_signal(number)
            _, rest = process.communicate(timeout=60)
        finally:
            process.kill()
        assert [line.split()[0] for line in said] == list(STAGES[:place])
        assert (process.returncode, rest.strip()) == (code, f"error: {word}"), stage
        wait_for(lambda children=children: not any(Path(f"/proc/{child}").exists() for child in children))
        assert not [path for path in output.rglob("*") if "mbdeploy-tmp" in path.name], stage
        for sidecar in output.rglob("*.json.json"):
            assert artifact.read_sidecar(sidecar.with_suffix("")) is not None
    process = start_listening(*words)
    process.communicate(timeout=300)
    assert process.returncode in (0, 1, 4)  # its weights are not trained: a gate may fail
    assert verify_artifacts(output).holds


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_by_its_number_after_it_was_put_away(tmp_path: Path, number: signal.Signals) -> None:
    program = """
import os, signal, sys
from pathlib import Path
import click
from mbdeploy import artifact, cli
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever started us may have it ignored
@click.command("wait")
def command():
    with artifact.writing(Path(sys.argv[-1])) as temporary:
        temporary.write_bytes(b"half")
        os.kill(os.getpid(), int(os.environ["NUMBER"]))
        signal.pause()
cli.program.get_command = lambda context, name: command
cli.program.resolve_command = lambda context, args: ("wait", command, [])
sys.argv = ["mbdeploy", "wait", sys.argv[1]]
cli.main()
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{program}", str(tmp_path / "file")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "NUMBER": str(int(number))},
    )
    assert (done.returncode, done.stdout, done.stderr) == (EXIT_TERMINATED, "", "error: terminated\n")
    assert list(tmp_path.iterdir()) == []


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
