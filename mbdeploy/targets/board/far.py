"""The far end of ``ssh:``: takes a job's files, runs the agent on them, sends back what it wrote, leaves nothing.

It is sent over the connection itself, hence one file, longer than others, and runs under the board's Python (>=
3.9), with its standard library only; its argument is how to start that Python. Both ends speak ``Line``: a message
is a line of JSON, a file is a message with its name and size, its bytes, and their sha256 in hex. An empty line is
a beat: each end sends one when it has been quiet for ``beat_s``, and takes the connection for lost when nothing
came for ``silence_s``.

Rules: 1. when the connection ends, or is silent, the agent is killed and the folder removed, whatever else goes on.
2. Who measures holds the board's lock alone; who infers shares it. 3. Packages are imported, in a process of their
own, before any file is taken: one that is there may still not load. 4. Who measures waits until the board is cool.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import platform
import pwd
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

MODULES = ("numpy", "onnxruntime", "openvino")
PREFIX, LOCK = "mbdeploy-board-", "mbdeploy-board.lock"
ABANDONED_S = 600.0
SYSTEM = Path("/sys")
IMPORT_S = 120.0
_CHUNK, _TAIL, _LONGEST_LINE = 1 << 18, 4000, 1 << 22


class LostError(Exception):
    """The connection ended, or nothing came over it for too long."""


class DamagedError(Exception):
    """A file that arrived is not the one that was sent."""


class Line:
    """One end of a connection: messages, files and beats; ``sink`` is None for an end that only reads."""

    def __init__(self, source: int, sink: int | None, silence_s: float = 12.0, beat_s: float = 2.0) -> None:
        self._source, self._sink, self._data = source, sink, b""
        self._heard = self._spoke = time.monotonic()
        self.silence_s, self.beat_s = silence_s, beat_s

    def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view and self._sink is not None:
            view = view[os.write(self._sink, view) :]
        self._spoke = time.monotonic()

    def say(self, **message: Any) -> None:
        self.send(json.dumps(message).encode() + b"\n")

    def beat(self) -> None:
        if time.monotonic() - self._spoke >= self.beat_s:
            self.send(b"\n")

    def wait(self, wait_s: float) -> bool:
        """Read what comes within so many seconds; False if nothing did."""
        if not select.select([self._source], [], [], wait_s)[0]:
            if time.monotonic() - self._heard > self.silence_s:
                raise LostError(f"nothing came for {self.silence_s:g} s")
            return False
        chunk = os.read(self._source, _CHUNK)
        if not chunk:
            raise LostError("the connection ended")
        self._data += chunk
        self._heard = time.monotonic()
        return True

    def drop(self) -> None:
        """Forget what came: beats."""
        self._data = b""

    def hear(self) -> dict[str, Any]:
        """The next message."""
        while True:
            line = self.read_line().strip()
            if line:
                try:
                    message: dict[str, Any] = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise LostError("what came is no message") from error
                return message

    def read_line(self) -> bytes:
        while b"\n" not in self._data:
            if len(self._data) > _LONGEST_LINE:
                raise LostError("what came is no message")
            self._fill()
        line, _, self._data = self._data.partition(b"\n")
        return line

    def send_file(self, path: Path, name: str) -> None:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            self.say(file=name, size=os.fstat(file.fileno()).st_size)
            for chunk in iter(lambda: file.read(_CHUNK), b""):
                digest.update(chunk)
                self.send(chunk)
        self.send(digest.hexdigest().encode())

    def take_file(self, path: Path, size: int) -> None:
        """Write the file that follows its message."""
        digest = hashlib.sha256()
        with path.open("wb") as file:
            while size:
                if not self._data:
                    self._fill()
                chunk, self._data = self._data[:size], self._data[size:]
                digest.update(chunk)
                file.write(chunk)
                size -= len(chunk)
        while len(self._data) < 64:
            self._fill()
        told, self._data = self._data[:64], self._data[64:]
        if told != digest.hexdigest().encode():
            raise DamagedError(f"{path.name} arrived damaged")

    def _fill(self) -> None:
        while not self.wait(self.beat_s):
            self.beat()
        self.beat()


# ---- the board -------------------------------------------------------------------------------------


def take_lock(line: Line, kind: str, wait_s: float) -> int:
    """Lock the board, ``shared`` or ``alone``, and tell who has it for as long as another has; a file descriptor."""
    handle = open_lock()
    mode = fcntl.LOCK_EX if kind == "alone" else fcntl.LOCK_SH
    deadline = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(handle, mode | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            holder = os.pread(handle, 200, 0).decode("utf-8", "replace") or "runs that do not measure"
            if time.monotonic() >= deadline:
                line.say(busy=holder)
                sys.exit(1)
            line.say(held=holder)
            line.wait(min(1.0, line.beat_s))
            line.drop()
    os.ftruncate(handle, 0)
    if kind == "alone":
        user, peer = pwd.getpwuid(os.getuid()).pw_name, os.environ.get("SSH_CONNECTION", "").partition(" ")[0]
        os.pwrite(handle, f"{user} from {peer or 'here'} since {time.strftime('%H:%M:%S %Z')}".encode(), 0)
    return handle


def open_lock() -> int:
    """Every user of the board may lock it, so the file is open to all; a link in its place is refused."""
    path = Path(tempfile.gettempdir(), LOCK)
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                os.fchmod(handle, 0o666)
                return handle


def read_heat() -> dict[str, Any]:
    """The hottest zone in degrees Celsius, and each frequency policy's governor and MHz, where they can be read."""
    zones = [read_number(path) / 1000 for path in SYSTEM.glob("class/thermal/thermal_zone*/temp")]
    zones = [zone for zone in zones if 0 < zone < 150]  # (an absent sensor says 0, or nonsense)
    policies = sorted(SYSTEM.glob("devices/system/cpu/cpufreq/policy*"))
    heat: dict[str, Any] = {"celsius": round(max(zones), 1)} if zones else {}
    if policies:
        heat["governors"] = [read_word(policy / "scaling_governor") for policy in policies]
        heat["mhz"] = [round(read_number(policy / "scaling_cur_freq") / 1000) for policy in policies]
    return heat


def read_word(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int:
    word = read_word(path)
    return int(word) if word.lstrip("-").isdigit() else 0


def cool_down(line: Line, below_c: float, longest_s: float) -> float:
    """Wait until the board is cooler than this, but not forever; how long it took, in seconds."""
    began = time.monotonic()
    while time.monotonic() - began < longest_s:
        celsius = read_heat().get("celsius", 0.0)
        if celsius < below_c:
            break
        line.say(cooling=celsius)
        time.sleep(min(1.0, line.beat_s))
    return round(time.monotonic() - began, 1)


def sweep() -> None:
    """Remove folders whose maker was killed: nobody holds their lock. Young ones may not be locked yet."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/"):
        with contextlib.suppress(OSError):
            facts = place.stat()
            if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > ABANDONED_S:
                with (place / ".lock").open("r+b") as lock:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(place, ignore_errors=True)


# ---- packages --------------------------------------------------------------------------------------

#: Says each package's version, as a JSON list on a line of its own, or why it cannot be imported.
_IMPORTING = """
import importlib, json, os, sys
if sys.path[:1] == [""]:
    del sys.path[0]
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
for name in sys.argv[1:]:
    try:
        version = str(getattr(importlib.import_module(name), "__version__", ""))
    except BaseException as error:
        while error.__cause__ is not None:
            error = error.__cause__
        print("\\n" + json.dumps(["", type(error).__name__ + ": " + " ".join(str(error).split())[:300]]))
        sys.exit(1)
    print("\\n" + json.dumps([name, version]), flush=True)
"""


def import_packages(line: Line, python: str, names: list[str], environment: dict[str, str]) -> dict[str, Any]:
    """Import packages in their order, as the agent will: their versions, and why the one after these failed."""
    began, output, ended = time.monotonic(), b"", None
    child = subprocess.Popen(
        [python, "-c", _IMPORTING, *names],
        cwd="/",
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert child.stdout is not None
    try:
        while ended is None and time.monotonic() - began < IMPORT_S:
            line.wait(0)
            line.drop()
            line.beat()
            if select.select([child.stdout], [], [], 0.25)[0]:
                chunk = os.read(child.stdout.fileno(), _CHUNK)
                output += chunk
                ended = None if chunk else child.wait(IMPORT_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
    lines = [json.loads(text) for text in output.splitlines() if text.startswith(b'["')]
    versions = {name: version for name, version in lines if name}
    reasons = [reason for name, reason in lines if not name]
    if ended is None:
        reasons.append(f"it took longer than {IMPORT_S:g} s")
    elif ended < 0:
        reasons.append(f"killed by {signal.Signals(-ended).name}")
    return {"python": sys.version_info[:2], "versions": versions, "failed": "; ".join(reasons)}


# ---- the job ---------------------------------------------------------------------------------------


class Work:
    """A folder and the agent in it; ``end`` ends both, from whichever thread."""

    def __init__(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = (self.place / ".lock").open("wb")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self.agent: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        if self.agent is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.agent.pid, signal.SIGKILL)
            self.agent.wait()

    def end(self) -> None:
        self.kill()
        shutil.rmtree(self.place, ignore_errors=True)


def take_files(line: Line, place: Path) -> None:
    while True:
        message = line.hear()
        if "file" not in message:
            return
        path = place / message["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            line.take_file(path, message["size"])
        except DamagedError as error:
            line.say(failed=str(error), kind="TRANSPORT")
            sys.exit(1)


def watch_line(line: Line, work: Work) -> None:
    """Read beats; when they stop, end everything. Runs beside the main thread, which may hang in a write."""
    try:
        while True:
            line.wait(line.beat_s)
            line.drop()
    except (LostError, OSError):
        work.end()
    finally:
        os._exit(1)


def run_agent(line: Line, work: Work, python: str, order: dict[str, Any]) -> dict[str, Any]:
    """Run the agent to its end, or to its time limit, and hand on what it says."""
    began = time.monotonic()
    with (work.place / "stderr").open("wb") as errors:
        work.agent = subprocess.Popen(
            [python, "agent.py", "."],
            cwd=work.place,
            env={**os.environ, **order["environment"], "MBDEPLOY_PARENT": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    assert work.agent.stdout is not None
    handle, is_open, pending, timed_out = work.agent.stdout.fileno(), True, b"", False
    while True:
        has_ended = work.agent.poll() is not None  # asked first, so that nothing written before is missed
        timed_out = time.monotonic() - began > order["wall_s"]
        if timed_out or (has_ended and not is_open):
            break
        ready = select.select([handle] if is_open else [], [], [], 0 if has_ended else 0.25)[0]
        line.beat()
        if ready:
            chunk = os.read(handle, _CHUNK)
            is_open = bool(chunk)
            *said, pending = (pending + chunk).split(b"\n")
            for words in said:
                line.say(said=words.decode("utf-8", "replace"))
        elif has_ended:  # (a process that it left behind may hold the pipe open)
            break
    work.kill()
    with (work.place / "stderr").open("rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
        stderr = file.read().decode("utf-8", "replace")
    wall_s = time.monotonic() - began
    return {"returncode": work.agent.returncode, "timed_out": timed_out, "stderr": stderr, "wall_s": wall_s}


def read_runtime() -> str:
    """The version of ONNX Runtime, as its source has it: it takes seconds to import, and its wheel has many names."""
    spec = importlib.util.find_spec("onnxruntime")
    try:
        source = Path(spec.origin).read_text(encoding="utf-8", errors="replace") if spec and spec.origin else ""
    except OSError:
        return ""
    found = re.search(r"(?m)^__version__ = [\"']([0-9][^\"']{0,40})[\"']", source)
    return found[1] if found else ""


def serve(line: Line, python: str) -> None:
    """One job: hello, order, lock, packages, files, agent, results."""
    modules = [name for name in MODULES if importlib.util.find_spec(name)]
    runtime = read_runtime() if "onnxruntime" in modules else ""
    line.say(hello={"python": python, "machine": platform.machine(), "modules": modules, "onnxruntime": runtime})
    order = line.hear()
    line.silence_s, line.beat_s = order["silence_s"], order["beat_s"]
    measures = order["lock"] == "alone"
    lock = take_lock(line, order["lock"], order["wait_s"])
    sweep()
    line.say(packages=import_packages(line, python, order["packages"], order["environment"]))
    work = Work()
    try:
        line.say(ready=True)
        take_files(line, work.place)
        threading.Thread(target=watch_line, args=(line, work), daemon=True).start()
        cooled_s = cool_down(line, order["cool_c"], order["cool_s"]) if measures else 0.0
        before = read_heat()
        line.say(running=True)
        ended = run_agent(line, work, python, order)
        heat = {"before": before, "after": read_heat(), "cooled_s": cooled_s} if measures else {}
        if ended["returncode"] == 0:
            for path in (*work.place.glob("result.json"), *sorted(work.place.glob("out_*.npy"))):
                line.send_file(path, path.name)
        line.say(ended=ended, heat=heat)
    except OSError as error:
        line.say(failed=(error.strerror or str(error)).lower(), kind="OUTPUT")
    finally:
        work.end()
        os.ftruncate(lock, 0)


def main(python: str) -> None:
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    line = Line(0, os.dup(1))
    os.dup2(2, 1)  # what else is printed must not be taken for a message
    with contextlib.suppress(LostError, BrokenPipeError):
        serve(line, python)


if __name__ == "__main__":
    main(sys.argv[1])
