"""The near end of a connection: one ssh process, a thread that writes to it, and the words of its far end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mbdeploy.targets.board.far import Line

_FAR = Path(__file__).with_name("far.py")
_TAIL_BYTES = 4000
#: Parts of the longest silence: between two beats, and for ssh to end (the folder there is removed in that time).
_BEATS, _ENDS = 6, 4


class Connection:
    """An ssh process whose far end runs ``far.py``.

    A thread of its own writes, so that a connection which takes nothing any more is noticed by reading:
    ``line`` raises LostError when nothing, not even a beat, came for ``silence_s``.
    """

    def __init__(self, command: Sequence[str], silence_s: float) -> None:
        self.beat_s, self.silence_s = silence_s / _BEATS, silence_s
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (a pipe could be held open by a shared connection)
        try:
            # In a session of its own Ctrl-C reaches us alone, and the far end can be told to clean up.
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                start_new_session=True,
            )
        except BaseException:
            self._stderr.close()
            raise
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        self.line = Line(self._stdout.fileno(), None, silence_s, self.beat_s)
        self._writer = Line(-1, self._stdin.fileno(), silence_s, self.beat_s)
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def greet(self, hello_s: float) -> dict[str, Any]:
        """Start the far end and return what it says of its board; nothing else may be sent before.

        Raises:
            LostError: it does not start.
        """
        code = _FAR.read_bytes()
        self._tasks.put(functools.partial(self._writer.send, b"%d\n%b" % (len(code), code)))
        self.line.silence_s = hello_s
        while True:
            words = self.line.read_line()  # what the board's login shell prints comes first
            with contextlib.suppress(ValueError, KeyError, TypeError):
                hello: dict[str, Any] = json.loads(words)["hello"]
                self.line.silence_s = self.silence_s
                return hello

    def say(self, **message: Any) -> None:
        """Send a message, some time soon."""
        self._tasks.put(functools.partial(self._writer.say, **message))

    def send_file(self, path: Path, name: str) -> None:
        """Send a file, some time soon."""
        self._tasks.put(functools.partial(self._writer.send_file, path, name))

    def read_end(self) -> tuple[int | None, str]:
        """How the ssh process ended (None: not yet), and the last that it said on standard error."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL_BYTES))
        return self._process.returncode, self._stderr.read().decode("utf-8", "replace")

    def close(self) -> None:
        """End the far end by ending its input, then whatever is left of ssh here."""
        self._tasks.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=self.silence_s / _ENDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._thread.join()
        self._stdout.close()
        self._stderr.close()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # who reads finds out that the other end is gone
            while (task := self._next_task()) is not None:
                task()
        with contextlib.suppress(OSError):
            self._stdin.close()

    def _next_task(self) -> Callable[[], None] | None:
        try:
            return self._tasks.get(timeout=self.beat_s)
        except queue.Empty:
            return self._writer.beat


@contextlib.contextmanager
def connecting(command: Sequence[str], silence_s: float) -> Iterator[Connection]:
    """A connection by this command that nothing is left of afterwards, here or there."""
    connection = Connection(command, silence_s)
    try:
        yield connection
    finally:
        connection.close()
