"""Native steps in a child: what comes back, and that nothing of a child is ever left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbdeploy import isolate, watch
from mbdeploy.bounds import bounding
from mbdeploy.errors import DataError, OutputError
from mbdeploy.isolate import Verdict, run_step
from mbdeploy.watch import Ended, Limits

LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="limits and parent-death signals are Linux's")

STEPS = """
import errno, json, os, subprocess, sys, time
from pathlib import Path

def add(request, on_progress):
    return {"sum": request["a"] + request["b"]}

def count(request, on_progress):
    for done in range(3):
        on_progress("counting", done + 1, 3)
    return None

def refuse(request, on_progress):
    from mbdeploy.errors import DataError
    raise DataError(where="a 'b' \\n c.png", expected="an image", found="«nothing»", todo="look")

def fail(request, on_progress):
    raise KeyError("lost")

def leave(request, on_progress):
    sys.exit(3)

def abort(request, on_progress):
    os.abort()

def answer_then_abort(request, on_progress):
    import atexit
    atexit.register(os.abort)
    return 1

def give_a_set(request, on_progress):
    return {1, 2}

def hog(request, on_progress):
    return len(bytearray(request["size_bytes"]))

def fill_disk(request, on_progress):
    if "errno" in request:
        raise OSError(request["errno"], os.strerror(request["errno"]), request["path"])
    Path(request["path"]).write_bytes(bytes(1 << 20))

def spoof(request, on_progress):
    for stream in (1, 2):
        os.write(stream, b'\\n{"value": "spoofed", "cpu_s": 0, "peak_bytes": 0}\\n')
    print('{"error": "DataError"}')
    return "true"

def read_environment(request, on_progress):
    return dict(os.environ)

def hang(request, on_progress):
    grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    Path(request["pids"]).write_text(f"{os.getpid()} {grandchild.pid}")
    on_progress("hanging", 0, 0)
    time.sleep(600)

def sleep(request, on_progress):
    time.sleep(request["seconds"])

def list_networks(request, on_progress):
    return [line.split(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]

def tell_bounds(request, on_progress):
    from mbdeploy.bounds import current_bounds
    return current_bounds().max_nodes

def tell_limits(request, on_progress):
    import resource
    kinds = {"core": resource.RLIMIT_CORE, "cpu": resource.RLIMIT_CPU, "files": resource.RLIMIT_NOFILE}
    deadline = time.monotonic() + 5  # the parent sets them once we run
    while resource.getrlimit(resource.RLIMIT_CPU)[0] == resource.RLIM_INFINITY and time.monotonic() < deadline:
        time.sleep(0.01)
    return {name: resource.getrlimit(kind)[0] for name, kind in kinds.items()}

def leave_a_fork(request, on_progress):
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    Path(request["pids"]).write_text(str(pid))
    return "done"
"""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """The full name of a function of STEPS, in a module that children can import."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "steps_for_tests.py").write_text(STEPS, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    return lambda name: f"steps_for_tests:{name}"


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        if Path("/proc/self/stat").exists():
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return True
        return False
    return state not in "ZX"  # nobody may be there to reap it


def ended_within(pids: list[int], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while any(is_running(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def read_pids(path: Path, seconds: float = 20.0) -> list[int]:
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, "the child never started"
        time.sleep(0.02)
    return [int(pid) for pid in path.read_text().split()]


def test_the_value_comes_back_with_what_the_child_used(step: Callable[[str], str]) -> None:
    outcome = run_step(step("add"), {"a": 2, "b": 3})
    assert (outcome.verdict, outcome.value, outcome.detail) == (Verdict.OK, {"sum": 5}, "")
    assert outcome.cpu_s > 0
    assert outcome.wall_s > 0
    assert outcome.peak_bytes > 1 << 20


def test_progress_reaches_the_parent_in_order(step: Callable[[str], str]) -> None:
    seen: list[tuple[str, int, int]] = []
    run_step(step("count"), {}, on_progress=lambda *what: seen.append(what))
    assert seen == [("counting", 1, 3), ("counting", 2, 3), ("counting", 3, 3)]


def test_our_own_errors_cross_the_process_as_they_were(step: Callable[[str], str]) -> None:
    with pytest.raises(DataError) as caught:
        run_step(step("refuse"), {})
    error = caught.value
    assert (error.where, error.expected, error.found, error.todo) == (
        "a 'b' \n c.png",
        "an image",
        "«nothing»",
        "look",
    )


@pytest.mark.parametrize(
    ("name", "verdict", "detail"),
    [
        ("fail", Verdict.REJECTED, "KeyError: 'lost'"),
        ("leave", Verdict.REJECTED, "ended with status 3 and no answer"),
        ("abort", Verdict.CRASHED, "killed by SIGABRT"),
        ("answer_then_abort", Verdict.CRASHED, "killed by SIGABRT"),
        ("give_a_set", Verdict.REJECTED, "TypeError: Object of type set is not JSON serializable"),
        ("no_such_function", Verdict.REJECTED, "AttributeError"),
    ],
)
def test_a_child_without_a_sound_answer_gets_the_verdict_that_fits(
    step: Callable[[str], str], name: str, verdict: Verdict, detail: str
) -> None:
    outcome = run_step(step(name), {})
    assert outcome.verdict is verdict
    assert detail in outcome.detail
    assert outcome.value is None


@LINUX_ONLY
def test_a_child_above_its_memory_limit_is_out_of_memory(step: Callable[[str], str]) -> None:
    outcome = run_step(step("hog"), {"size_bytes": 2 << 30}, limits=Limits(memory_bytes=1 << 30))
    assert outcome.verdict is Verdict.OOM


@pytest.mark.parametrize(
    ("ended", "verdict"),
    [
        (Ended(returncode=-6, timed_out=False, stderr="what():  std::bad_alloc", wall_s=1), Verdict.OOM),
        (Ended(returncode=1, timed_out=False, stderr="Failed to allocate memory for", wall_s=1), Verdict.OOM),
        (Ended(returncode=-11, timed_out=False, stderr="", wall_s=1), Verdict.CRASHED),
        (Ended(returncode=1, timed_out=False, stderr="", wall_s=1), Verdict.REJECTED),
        (Ended(returncode=-9, timed_out=True, stderr="std::bad_alloc", wall_s=1), Verdict.TIMEOUT),
    ],
)
def test_the_verdict_follows_from_how_the_process_ended(ended: Ended, verdict: Verdict) -> None:
    assert isolate.judge_ended(ended, "") is verdict


def test_what_native_code_prints_cannot_be_taken_for_the_answer(step: Callable[[str], str]) -> None:
    outcome = run_step(step("spoof"), {})
    assert (outcome.verdict, outcome.value) == (Verdict.OK, "true")


def test_a_child_sees_only_the_allowed_environment(step: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("LD_PRELOAD_SOMETHING", "x")
    for name in watch.REACHING_ENVIRONMENT:  # the ways to the user's keys and containers
        monkeypatch.setenv(name, "/run/user/1000/x")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    environment: dict[str, str] = run_step(step("read_environment"), {}).value
    own = {"LC_CTYPE", "ORT_DISABLE_TELEMETRY"}
    assert set(environment) - {"__CF_USER_TEXT_ENCODING"} <= watch.KEPT_ENVIRONMENT | own
    assert environment["ORT_DISABLE_TELEMETRY"] == "1"
    assert environment["PATH"] == os.environ["PATH"]
    assert environment["OMP_NUM_THREADS"] == "1"
    assert not watch.KEPT_ENVIRONMENT & watch.REACHING_ENVIRONMENT


def test_a_module_in_the_current_folder_is_not_taken_for_one_of_pythons(
    step: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that came with a model may hold json.py."""
    for name in ("json", "ctypes", "struct"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    monkeypatch.chdir(tmp_path)
    assert run_step(step("add"), {"a": 2, "b": 3}).value == {"sum": 5}
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["ENOSPC", "EDQUOT", "EFBIG"])
def test_a_full_disk_in_the_child_is_an_output_error_here(
    step: Callable[[str], str], tmp_path: Path, name: str
) -> None:
    import errno

    path = str(tmp_path / "x.onnx")
    with pytest.raises(OutputError, match="room to write") as caught:
        run_step(step("fill_disk"), {"path": path, "errno": getattr(errno, name)})
    assert caught.value.where == path


@LINUX_ONLY
def test_a_file_above_its_limit_is_refused(step: Callable[[str], str], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="room to write"):
        run_step(step("fill_disk"), {"path": str(tmp_path / "x")}, limits=Limits(file_bytes=1 << 16))


@pytest.mark.slow
def test_a_child_beyond_its_time_is_stopped_with_its_whole_group(step: Callable[[str], str], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    outcome = run_step(step("hang"), {"pids": str(pids)}, limits=Limits(wall_s=3.0))
    assert outcome.verdict is Verdict.TIMEOUT
    assert outcome.detail == "stopped after 3 s"
    assert ended_within(read_pids(pids))


def test_a_grandchild_left_behind_neither_blocks_the_answer_nor_outlives_it(
    step: Callable[[str], str], tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    outcome = run_step(step("leave_a_fork"), {"pids": str(pids)}, limits=Limits(wall_s=60.0))
    assert (outcome.verdict, outcome.value) == (Verdict.OK, "done")
    assert outcome.wall_s < 60.0
    assert ended_within(read_pids(pids))


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ZeroDivisionError])
def test_an_exception_while_waiting_ends_the_group_and_goes_on(
    step: Callable[[str], str], tmp_path: Path, exception: type[BaseException]
) -> None:
    def interrupt(*_: Any) -> None:
        raise exception

    pids = tmp_path / "pids"
    with pytest.raises(exception):
        run_step(step("hang"), {"pids": str(pids)}, on_progress=interrupt)
    assert ended_within(read_pids(pids))


@LINUX_ONLY
def test_a_child_dies_when_its_parent_is_killed(step: Callable[[str], str], tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = textwrap.dedent(
        """
        import sys; sys.path[:] = sys.argv[2].split("\\n")
        from mbdeploy.isolate import run_step
        run_step("steps_for_tests:hang", {"pids": sys.argv[1]})
        """
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(pids), "\n".join(sys.path)])
    try:
        child, grandchild = read_pids(pids)
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    try:
        assert ended_within([child])
    finally:
        os.kill(grandchild, signal.SIGKILL)


@pytest.mark.skipif(bool(watch.find_network_bar()), reason="the system does not permit network namespaces here")
def test_a_native_step_has_no_network(step: Callable[[str], str]) -> None:
    assert run_step(step("list_networks"), {}).value == ["lo"]


def test_where_the_network_cannot_be_cut_off_the_step_runs_and_the_reason_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "_UNSHARE", ("no-such-program",))
    watch.find_network_bar.cache_clear()
    try:
        assert watch.cut_network(["a", "b"]) == ["a", "b"]
        said = watch.describe_isolation()["network"]
        assert said.startswith("NOT cut off: ")
    finally:
        watch.find_network_bar.cache_clear()


@pytest.mark.slow
@LINUX_ONLY
def test_a_step_takes_no_more_time_than_the_bounds_in_force(step: Callable[[str], str]) -> None:
    with bounding(max_time=1.0):
        outcome = run_step(step("sleep"), {"seconds": 60})
    assert outcome.verdict is Verdict.TIMEOUT


def test_the_bounds_in_force_reach_the_child(step: Callable[[str], str]) -> None:
    with bounding(max_nodes=17):
        assert run_step(step("tell_bounds"), {}).value == 17


@LINUX_ONLY
def test_a_child_is_limited_in_open_files_and_cpu_time_and_leaves_no_core(step: Callable[[str], str]) -> None:
    limits = Limits(wall_s=30.0)
    value = run_step(step("tell_limits"), {}, limits=limits).value
    assert value == {"core": 0, "cpu": 30 * (os.cpu_count() or 1), "files": 4096}
