"""A board by ssh, against a real OpenSSH server on loopback: host keys, lost connections, and who waits for whom."""

from __future__ import annotations

import contextlib
import platform
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from boards import Board

from mbdeploy.errors import MbdeployError, StepError, UnavailableError
from mbdeploy.targets import Job, Session, open_target, parse_provider
from mbdeploy.targets.board import target as board_target
from mbdeploy.targets.board.target import BoardTarget

pytestmark = [pytest.mark.ssh, pytest.mark.slow]


@pytest.fixture
def job(make_mean_model: Callable[..., Path], images: np.ndarray) -> Job:
    session = Session(model=make_mean_model(), provider="CPUExecutionProvider")
    return Job(kind="infer", sessions=(session,), inputs=images)


@pytest.fixture
def endless(job: Job) -> Job:
    """A bench that goes on until it is stopped."""
    return msgspec.structs.replace(job, kind="bench", batch_size=1, warmup=0, min_duration_s=3600.0, max_rounds=1 << 40)


def refuse(target: BoardTarget, job: Job) -> MbdeployError:
    with pytest.raises(MbdeployError) as caught:
        target.run(job)
    return caught.value


def test_times_from_a_board_come_with_its_temperature_and_frequency(endless: Job, board: Board) -> None:
    job = msgspec.structs.replace(endless, min_duration_s=0.0, min_rounds=4)
    ran = board.open().run(job).sessions[0]
    assert len(ran.wall_ns) == 4
    assert set(ran.settings["board"]) == {"before", "after", "cooled_s"}


def test_no_shell_reads_the_name_of_a_model_or_of_its_weights(job: Job, board: Board, tmp_path: Path) -> None:
    name = "$(touch evil)`touch evil`'; touch evil; \".bin\n"
    (tmp_path / "a;touch evil").mkdir()
    model = job.sessions[0].model.rename(tmp_path / "a;touch evil" / "$(touch evil).onnx")
    (model.parent / name).write_bytes(b"weights")
    session = msgspec.structs.replace(job.sessions[0], model=model, companions=(name,))
    assert len(board.open().run(msgspec.structs.replace(job, sessions=(session,))).sessions) == 1
    assert list(board.folder.rglob("evil")) == []


def test_a_changed_host_key_is_refused(job: Job, board: Board) -> None:
    board.write_config("StrictHostKeyChecking no")
    board.make_key("other")
    (board.folder / "known").write_text(f"[127.0.0.1]:{board.port} {(board.folder / 'other.pub').read_text()}")
    error = refuse(board.open(), job)
    assert isinstance(error, UnavailableError)
    assert "another host key than the one that is known" in error.found
    assert f"ssh-keygen -R '[127.0.0.1]:{board.port}'" in error.todo


@pytest.mark.parametrize("checking", ["ask", "no"])
def test_an_unknown_host_key_is_refused_unless_the_user_accepts_new_ones(job: Job, board: Board, checking: str) -> None:
    board.write_config(f"StrictHostKeyChecking {checking}")
    (board.folder / "known").unlink()
    assert "not known here" in refuse(board.open(), job).found
    board.write_config("StrictHostKeyChecking accept-new")
    (board.folder / "known").unlink()
    assert len(board.open().run(job).sessions) == 1


def test_a_board_without_onnxruntime_says_how_to_get_it(job: Job, board: Board) -> None:
    board.set_python(f'exec {sys.executable} -S "$@"')
    error = refuse(board.open(), job)
    assert isinstance(error, UnavailableError)
    assert "onnxruntime" in error.expected
    assert "~/.mbdeploy/bin/python3 -m pip install numpy onnxruntime" in error.todo


@pytest.mark.parametrize(
    ("stand_in", "found"),
    [
        ("print('welcome'); __version__ = '1.10.0'", "1.10.0"),
        (
            "raise ImportError('libgomp.so.1: no such file\\nin all of /lib')",
            "ImportError: libgomp.so.1: no such file in all",
        ),
        (
            "try:\n    import no_such_library\nexcept ImportError as error:\n    raise OSError('?') from error",
            "No module named",
        ),
        ("import os; os.kill(os.getpid(), 4)", "killed by SIGILL"),
    ],
)
def test_a_board_whose_onnxruntime_is_too_old_or_does_not_load_says_how_to_replace_it(
    job: Job, board: Board, tmp_path: Path, stand_in: str, found: str
) -> None:
    folder = tmp_path / "stand-ins"
    folder.mkdir()
    (folder / "onnxruntime.py").write_text(stand_in)
    board.set_python(f'PYTHONPATH="{folder}" exec {sys.executable} "$@"')
    target = board.open()
    error = refuse(target, job)
    assert isinstance(error, UnavailableError)
    assert (error.where, error.exit_code) == (target.name, 3)
    assert error.expected.startswith("onnxruntime 1.2")
    assert found in error.found and "\n" not in error.found
    install = "~/.mbdeploy/bin/python3 -m pip install --upgrade --force-reinstall numpy onnxruntime"
    assert error.todo == f"run `ssh {target.login} '{install}'`"


def test_a_board_whose_numpy_does_not_load_is_not_taken_for_one_without_onnxruntime(
    job: Job, board: Board, tmp_path: Path
) -> None:
    (tmp_path / "numpy.py").write_text("raise ImportError('built for another Python')")
    board.set_python(f'PYTHONPATH="{tmp_path}" exec {sys.executable} "$@"')
    error = refuse(board.open(), job)
    assert (error.expected.split()[0], error.found) == ("numpy", "ImportError: built for another Python")


def test_a_board_without_the_venv_is_asked_for_its_python3(board: Board) -> None:
    board.python.unlink()
    settings = board.open()
    said = subprocess.run([*settings.command[:-1], "command -v python3"], capture_output=True, check=False)
    if said.returncode:
        pytest.skip("no python3 on the search path of a log-in here")
    try:
        assert settings.run(Job(kind="probe")).host.machine == platform.machine()
    except UnavailableError as error:  # whether that one is new enough and has ONNX Runtime is not ours to say
        assert "for python3 there" in error.expected or error.found.startswith("Python 3.")


def test_a_connection_that_is_cut_leaves_nothing_there(endless: Job, board: Board) -> None:
    seen: list[str] = []

    def cut(what: str, done: int, total: int) -> None:
        if what == "measuring" and "measuring" not in seen:
            seen.extend([*board.list_folders(), what])
            board.cut()

    with pytest.raises(StepError, match=r"TRANSPORT while running: the connection ended"):
        board.open().run(endless, cut)
    assert seen[0].startswith("mbdeploy-board-")  # (that it is gone is checked when the board is stopped)


class Relay:
    """A network between here and a board, which can be stopped: nothing is closed, and nothing comes through."""

    def __init__(self, port: int) -> None:
        self._port, self.flows = port, threading.Event()
        self.flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._sockets: list[socket.socket] = [self._listener]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        self.flows.set()
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                ends = self._listener.accept()[0], socket.create_connection(("127.0.0.1", self._port))
                self._sockets += ends
                for source, sink in (ends, ends[::-1]):
                    self._threads.append(threading.Thread(target=self._carry, args=(source, sink)))
                    self._threads[-1].start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                self.flows.wait()
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def relay(board: Board) -> Iterator[Relay]:
    made = Relay(board.port)
    board.write_config(port=made.port)
    yield made
    made.close()


def test_a_connection_that_stalls_is_left_from_both_ends(endless: Job, board: Board, relay: Relay) -> None:
    def stall(what: str, done: int, total: int) -> None:
        if what == "measuring":
            relay.flows.clear()

    with pytest.raises(StepError, match=r"TRANSPORT while running: nothing came for 2 s"):
        board.open(port=relay.port, silence_s=2.0).run(endless, stall)
    deadline = time.monotonic() + 20
    while (board.list_folders() or len(board.list_processes()) > 0) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not relay.flows.is_set()  # the far end found out by itself
    assert (board.list_processes(), board.list_folders()) == ([], [])


def test_a_connection_that_stalls_before_the_board_says_hello_is_lost(
    job: Job, board: Board, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_target, "_HELLO_S", 0.5)
    relay.flows.clear()
    error = refuse(board.open(port=relay.port, silence_s=1.0), job)
    assert isinstance(error, StepError)
    assert error.found == "TRANSPORT while connecting: nothing came for 0.5 s"
    assert error.where == f"ssh:{board.open(port=relay.port).login.split()[-1]}:{relay.port}"


def test_an_interrupted_run_leaves_nothing_there(endless: Job, board: Board) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        board.open().run(endless, interrupt)
    assert (board.list_processes(), board.list_folders()) == ([], [])


def test_an_agent_that_hangs_there_is_stopped_there(endless: Job, board: Board) -> None:
    with pytest.raises(StepError, match="TIMEOUT while"):
        board.open().run(msgspec.structs.replace(endless, wall_s=0.5))
    assert board.list_folders() == []


def test_who_measures_waits_for_who_measures(endless: Job, board: Board) -> None:
    short = msgspec.structs.replace(endless, min_duration_s=0.0, min_rounds=4)
    waited: list[str] = []
    refused: list[MbdeployError] = []

    def run_others(what: str, done: int, total: int) -> None:
        if what == "measuring" and not refused:
            refused.append(refuse(msgspec.structs.replace(board.open(), wait_s=0.0), short))
            second.start()
            while not waited:
                time.sleep(0.05)
            raise KeyboardInterrupt

    second = threading.Thread(
        target=lambda: answers.append(board.open().run(short, lambda *said: waited.append(said[0])))
    )
    answers: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        board.open().run(endless, run_others)
    second.join()
    assert "from 127.0.0.1 since" in refused[0].found
    assert "which is held by" in waited[0]
    assert len(answers[0].sessions[0].wall_ns) == 4


@pytest.mark.emulation
@pytest.mark.sweep
def test_an_emulated_arm_board_answers_by_ssh(job: Job, board: Board, images: np.ndarray, real_arm: None) -> None:
    emulated = open_target(parse_provider("arm@qemu:cortex-a53"))
    board.set_python(f'exec {" ".join(emulated.command)} "$@"')  # type: ignore[attr-defined]
    target = msgspec.structs.replace(board.open(), machine="aarch64")
    answer = target.run(job)
    assert answer.host.machine == "aarch64"
    np.testing.assert_allclose(answer.sessions[0].outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
