"""Nothing lives on after a mbdeploy that was killed, however early; and what looks for such processes finds them."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from mbdeploy.targets import agent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
#: Every Python that starts with this on its path says so, and takes its time before it reads its own program.
SLOW_START = """
import os, pathlib, time
pathlib.Path(os.environ["MBDEPLOY_PATH"], f"{os.getpid()}.starting").touch()
time.sleep(0.5)
"""
JOB = """
import pathlib, time

def go_on(request, on_progress=None):
    pathlib.Path(request["folder"], "worked").touch()
    time.sleep(600)
"""
#: What starts a child that would work for minutes: a native step, a worker, an agent, Docker's client.
PARENTS = {
    "step": """
        from mbdeploy.isolate import run_step
        run_step("job_of_minutes:go_on", {"folder": folder})
        """,
    "worker": """
        from mbdeploy.executing import Work
        from mbdeploy.executing.processes import LocalExecutor
        work = Work(name="item", function="job_of_minutes:go_on", request={"folder": folder}, identity={})
        list(LocalExecutor(1).run([work]))
        """,
    "agent": """
        from pathlib import Path
        from mbdeploy.targets import Job, Session, open_target, parse_provider
        session = Session(model=Path(folder, "conv.onnx"), provider="CPUExecutionProvider")
        inputs = np.zeros((1, 3, 16, 16), np.float32)
        job = Job(kind="bench", sessions=(session,), inputs=inputs, min_duration_s=500.0, max_rounds=10**9)
        open_target(parse_provider("cpu")).run(job)
        """,
    "docker": """
        from mbdeploy.targets import Job
        from mbdeploy.targets.docker import DockerTarget
        os.environ["PATH"] = os.pathsep.join([folder, os.environ["PATH"]])
        DockerTarget(image="none").run(Job(kind="probe"))
        """,
}


@pytest.fixture
def kill_nine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kill_nine")


def start_parent(kind: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that starts one child of this kind, whose Python starts slowly."""
    (folder / "slow").mkdir()
    (folder / "slow" / "sitecustomize.py").write_text(SLOW_START)
    (folder / "job_of_minutes.py").write_text(JOB)
    path = [str(folder), *sys.path]
    client = f"cd '{folder}' && touch $$.starting && sleep 0.5 && touch worked && exec sleep 600"
    (folder / "docker").write_text(f"#!/bin/sh\n{client}\n")
    (folder / "docker").chmod(0o755)
    prologue = f"import os, sys; sys.path[:] = {path!r}; folder = {str(folder)!r}; import numpy as np\n"
    # (what a child inherits of the environment, and the marks of those that start)
    slow = f"os.environ['PYTHONPATH'] = {str(folder / 'slow')!r}; os.environ['MBDEPLOY_PATH'] = folder\n"
    program = prologue + slow + textwrap.dedent(PARENTS[kind])
    return subprocess.Popen([sys.executable, "-c", program], env=environment)


def wait_for(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=() if kind == "step" else pytest.mark.slow) for kind in PARENTS]
)
def test_a_child_whose_parent_was_killed_while_it_started_does_no_work(
    kind: str, tmp_path: Path, conv_model_file: Path, kill_nine: ModuleType
) -> None:
    mark = f"{tmp_path.name}-{os.getpid()}."
    parent = start_parent(kind, tmp_path, kill_nine.mark_environment(mark))
    try:
        wait_for(lambda: list(tmp_path.glob("*.starting")))
        (child,) = (int(path.stem) for path in tmp_path.glob("*.starting"))
        assert {parent.pid, child} <= set(kill_nine.find_marked(mark))
    finally:
        parent.kill()
        parent.wait()
    assert kill_nine.find_orphans(mark, wait_s=20.0) == []
    assert not (tmp_path / "worked").exists()


def test_an_agent_of_a_process_that_is_gone_ends_before_it_loads_anything(tmp_path: Path) -> None:
    program = shutil.copy(agent.__file__, tmp_path)
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    for parent, code in (("1", 1), (str(os.getpid()), 9), ("", 9)):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MBDEPLOY_PARENT": parent}
        done = subprocess.run([sys.executable, program, "."], env=environment, capture_output=True, text=True)
        assert done.returncode == code
        assert (f"process {parent}" in done.stderr) is (code == 1)


def test_a_process_left_behind_is_found_and_ended(kill_nine: ModuleType, tmp_path: Path) -> None:
    """It is left as a native step could be: with what isolation leaves of the environment, in a session of its own."""
    mark = f"{tmp_path.name}-{os.getpid()}."
    program = """
        import subprocess, sys; sys.path[:] = sys.argv[1].split(":")
        from mbdeploy.watch import child_environment, cut_network
        command = cut_network([sys.executable, "-c", "import time; time.sleep(600)"])
        nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        print(subprocess.Popen(command, env=child_environment(), start_new_session=True, **nowhere).pid)
        """
    argv = [sys.executable, "-c", textwrap.dedent(program), ":".join(sys.path)]
    done = subprocess.run(argv, env=kill_nine.mark_environment(mark), capture_output=True, check=True)
    assert kill_nine.find_orphans(f"another-{mark}", wait_s=0.1) == []
    assert kill_nine.find_orphans(mark, wait_s=0.1) == [int(done.stdout)]
    assert kill_nine.find_orphans(mark, wait_s=20.0) == []


def test_a_sidecar_that_was_written_last_and_vouches_for_other_bytes_is_torn(
    kill_nine: ModuleType, tmp_path: Path
) -> None:
    path, sidecar = tmp_path / "result.json", tmp_path / "result.json.json"
    path.write_text("[1]")
    sidecar.write_text(json.dumps({"sha256": hashlib.sha256(b"[1]").hexdigest()}))
    assert kill_nine.find_torn(tmp_path) == []
    path.write_text("[2]")
    for moment_ns, completed, torn in ((10**18, False, True), (10**18, True, True), (3 * 10**18, False, False)):
        os.utime(path, ns=(moment_ns, moment_ns))
        os.utime(sidecar, ns=(2 * 10**18, 2 * 10**18))
        assert bool(kill_nine.find_torn(tmp_path, completed=completed)) is torn
    assert [line.split(":")[0] for line in kill_nine.find_torn(tmp_path, completed=True)] == ["result.json"]
    path.write_text("[2")
    assert [line.split(":")[0] for line in kill_nine.find_torn(tmp_path)] == ["result.json"]
