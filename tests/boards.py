"""Boards of the tests' own: a real OpenSSH server on loopback, and what is left there after a job."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from mbdeploy.targets.board.target import BoardTarget
from mbdeploy.targets.ssh import open_ssh


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

    def write_client(self) -> Path:
        """A folder for the search path: its ``ssh`` reads the client's configuration, as the user's own would."""
        folder = self.folder / "bin"
        folder.mkdir()
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.folder}/config "$@"\n')
        (folder / "ssh").chmod(0o755)
        return folder

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


@contextlib.contextmanager
def serving_board(folder: Path) -> Iterator[Board]:
    """A board in ``folder``; 20 s after its use nothing of its jobs may be left there."""
    find_sshd()
    made = Board(folder)
    try:
        yield made
        deadline = time.monotonic() + 20
        while made.list_processes() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert (made.list_processes(), made.list_folders()) == ([], [])
    finally:
        made.stop()
