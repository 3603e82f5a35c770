"""Fixtures for targets: a model small enough to know its answer, and every target that is present here."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.errors import UnavailableError
from mbdeploy.targets import open_target, parse_provider
from mbdeploy.targets.board.target import BoardTarget
from mbdeploy.targets.emulation import build, prefix, wheels
from mbdeploy.targets.ssh import open_ssh


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
def stand_in_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program called qemu-x86_64 that knows two CPUs and runs what follows on the real one."""
    if platform.machine() != "x86_64":
        pytest.skip("the x86 emulator runs this machine's Python, which is not x86 code")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "qemu-x86_64"
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "qemu-x86_64 version 9.9.9 (made up)"; exit 0; fi\n'
        'if [ "$2" = help ]; then echo "x86 Haswell   (alias)"; echo "x86 Skylake-Client-v1   Intel"; exit 1; fi\n'
        'shift 2; exec "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return program


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
def real_arm() -> None:
    """Skip where the emulation prefix has not been built."""
    try:
        open_target(parse_provider("arm@qemu:cortex-a53"))
    except UnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture
def real_qemu() -> None:
    """Skip where qemu's user emulator is not installed, or this machine has no x86 code to emulate."""
    if platform.machine() != "x86_64" or not any(map(shutil.which, ("qemu-x86_64", "qemu-x86_64-static"))):
        pytest.skip("needs qemu-x86_64 on the search path: apt-get install qemu-user")


class Board:
    """An OpenSSH server of the test's own on loopback, with its own keys; who logs in has a home and a scratch folder.

    ``python`` is what ~/.mbdeploy/bin/python3 there does; this interpreter, unless a test writes another.
    """

    def __init__(self, folder: Path, command: Sequence[str] = (sys.executable,)) -> None:
        self.folder, self.home, self.scratch = folder, folder / "home", folder / "scratch"
        for path in (self.home / ".mbdeploy" / "bin", self.scratch):
            path.mkdir(parents=True)
        self.python = self.home / ".mbdeploy" / "bin" / "python3"
        self.set_python(f'exec {" ".join(command)} "$@"')
        for name in ("host", "user"):
            self.make_key(name)
        self.port = find_free_port()
        self.write_config()
        self.server = self._start()

    def set_python(self, script: str) -> None:
        self.python.write_text(f"#!/bin/sh\n{script}\n")
        self.python.chmod(0o755)

    def make_key(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)

    def write_config(self, *lines: str, port: int | None = None) -> None:
        """The client's configuration: what a user would have in ~/.ssh/config and ~/.ssh/known_hosts."""
        host, port = f"[127.0.0.1]:{port or self.port}", port or self.port
        (self.folder / "known").write_text(f"{host} {(self.folder / 'host.pub').read_text()}")
        settings = (f"IdentityFile {self.folder}/user", "IdentitiesOnly yes", f"UserKnownHostsFile {self.folder}/known")
        (self.folder / "config").write_text("\n".join([*lines, *settings, ""]))

    def open(self, *, port: int | None = None, silence_s: float = 12.0) -> BoardTarget:
        word = f"{getpass.getuser()}@127.0.0.1:{port or self.port}"
        return open_ssh(word, options=("-F", str(self.folder / "config")), silence_s=silence_s)

    def list_processes(self) -> list[int]:
        """Everything that was started by a log-in: it has this scratch folder in its environment."""
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                if f"TMPDIR={self.scratch}\0".encode() in path.read_bytes():
                    found.append(int(path.parent.name))
        return found

    def list_folders(self) -> list[str]:
        return sorted(path.name for path in self.scratch.iterdir() if path.is_dir())

    def cut(self) -> None:
        """Kill the server's processes of every connection, as a failing network would: nothing is said any more."""
        for pid in list_children(self.server.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def stop(self) -> None:
        self.cut()
        self.server.kill()
        self.server.wait()
        for pid in self.list_processes():
            os.kill(pid, signal.SIGKILL)

    def _start(self) -> subprocess.Popen[bytes]:
        settings = (
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.folder}/host",
            f"AuthorizedKeysFile {self.folder}/user.pub",
            f"SetEnv HOME={self.home} TMPDIR={self.scratch}",
            "StrictModes no",
            "UsePAM no",
            "PidFile none",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PermitRootLogin prohibit-password",
        )
        (self.folder / "sshd_config").write_text("\n".join([*settings, ""]))
        command = [find_sshd(), "-D", "-f", self.folder / "sshd_config", "-E", self.folder / "log"]
        if os.getuid() == 0:  # the server of a system that has not started it yet lacks its empty folder
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return server
            time.sleep(0.05)
        server.kill()
        server.wait()
        raise AssertionError((self.folder / "log").read_text())


def find_sshd() -> str:
    found = shutil.which("sshd", path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin")
    if found is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH: apt-get install openssh-client openssh-server")
    return found


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def list_children(pid: int) -> list[int]:
    """The processes below this one that belong to the server itself, deepest last."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            name, _, rest = path.read_text().rpartition(")")
            if int(rest.split()[1]) == pid and "sshd" in name:
                found += [int(path.parent.name), *list_children(int(path.parent.name))]
    return found


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    """A board on loopback, alone with the test; 20 s after it nothing of its jobs may be left there."""
    find_sshd()
    made = Board(tmp_path / "board")
    try:
        yield made
        deadline = time.monotonic() + 20
        while made.list_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (made.list_processes(), made.list_folders()) == ([], [])
    finally:
        made.stop()
