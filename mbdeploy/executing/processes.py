"""Processes of this machine as workers: one that is killed costs its item's time, and nothing else."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Generator, Sequence
from multiprocessing.connection import Pipe, wait
from typing import Any

import msgspec

from mbdeploy.bounds import current_bounds
from mbdeploy.errors import StepError
from mbdeploy.executing.work import Done, Work, list_phases
from mbdeploy.executing.worker import raise_error
from mbdeploy.isolate import judge_ended
from mbdeploy.watch import Ended, child_environment, tie_python

#: Workers that one item may cost before it is given up.
MOST_LOSSES = 3
_GRACE_S = 3.0
_BOOT = (
    "import json; told = json.loads(sys.argv[1]); sys.path[:] = told['sys_path']; "
    "from mbdeploy.executing.worker import serve; serve(told['descriptor'], told['bounds'])"
)


class LocalExecutor(msgspec.Struct, frozen=True):
    """``count`` worker processes, started for each ``run`` and ended with it."""

    count: int

    @property
    def words(self) -> str:
        """ "2 workers"."""
        return f"{self.count} worker{'s' * (self.count != 1)}"

    @property
    def link(self) -> str:
        """There is nothing to see."""
        return ""

    def close(self) -> None:
        """Nothing is held between runs."""

    def demand(self, devices: Collection[str], *, times: bool) -> None:
        """Nothing can be missing: this process sees to it that no two items are at one board."""

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """Answers as they come; see :class:`mbdeploy.executing.work.Executor`."""
        shared, on_boards, alone = list_phases(works)
        yield from _run(shared, self.count)
        yield from _run(on_boards, self.count)
        yield from _run(alone, 1)


class _Worker:
    """One process with a pipe to it, and the item that it is at."""

    def __init__(self) -> None:
        self.pipe: Any
        self.pipe, theirs = Pipe()
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the worker is)
        self.work: Work | None = None
        told = {
            "sys_path": sys.path,
            "descriptor": theirs.fileno(),
            "bounds": msgspec.structs.asdict(current_bounds()),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", tie_python() + _BOOT, msgspec.json.encode(told).decode()],
            stdin=subprocess.DEVNULL,
            stdout=self.stderr,
            stderr=self.stderr,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,  # Ctrl-C comes to us alone, and we end them in order
            env=child_environment(reaching=True),  # native steps are its children; it may go to boards as we do
        )
        theirs.close()

    def give(self, work: Work) -> None:
        self.work = work
        asked = {"function": work.function, "request": work.request}
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is dead: that shows as its next answer
            self.pipe.send_bytes(msgspec.json.encode(asked))

    def take(self) -> dict[str, Any] | None:
        """The answer to its item, or None if it died over it."""
        try:
            answer: dict[str, Any] = msgspec.json.decode(self.pipe.recv_bytes())
        except (EOFError, ConnectionResetError):
            return None
        return answer

    def describe_end(self) -> str:
        returncode = self.process.wait()
        self.stderr.seek(0)
        said = self.stderr.read().decode("utf-8", "replace").strip()
        verdict = judge_ended(Ended(returncode=returncode, timed_out=False, stderr=said, wall_s=0.0), "")
        how = signal.Signals(-returncode).name if returncode < 0 else f"status {returncode}"
        return f"{verdict.value}: {how}" + (f" ({said.splitlines()[-1]})" if said else "")

    def end(self) -> None:
        """Let it end what it started, and see to it that it does."""
        self.pipe.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.stderr.close()


def _run(works: Sequence[Work], count: int) -> Generator[Done, None, None]:
    waiting = collections.deque(works)
    losses: collections.Counter[str] = collections.Counter()
    workers: dict[Any, _Worker] = {}
    try:
        while waiting or any(worker.work for worker in workers.values()):
            while len(workers) < count and (chosen := _choose(waiting, workers.values())):
                worker = _Worker()
                workers[worker.pipe] = worker
                worker.give(chosen)
            for pipe in wait(list(workers)):
                worker = workers[pipe]
                work, answer = worker.work, worker.take()
                assert work is not None  # an idle worker is ended at once
                if answer is None:
                    losses[work.key] += 1
                    _give_up(work, losses[work.key], worker)
                    waiting.append(work)
                    workers.pop(pipe).end()
                    continue
                raise_error(answer)
                worker.work = None
                if chosen := _choose(waiting, workers.values()):
                    worker.give(chosen)
                else:
                    workers.pop(pipe).end()
                yield Done(
                    key=work.key,
                    value=answer["value"],
                    seconds=answer["seconds"],
                    worker=f"process {worker.process.pid}",
                )
    finally:
        for worker in workers.values():
            worker.end()


def _choose(waiting: collections.deque[Work], workers: Collection[_Worker]) -> Work | None:
    """Take the first item whose board is free; None if there is none."""
    busy = {worker.work.device for worker in workers if worker.work}
    for place, work in enumerate(waiting):
        if not work.device or work.device not in busy:
            del waiting[place]
            return work
    return None


def _give_up(work: Work, losses: int, worker: _Worker) -> None:
    if losses >= MOST_LOSSES:
        raise StepError(
            where=work.name,
            expected="an item that its worker survives",
            found=f"{losses} workers that ended over it, the last one {worker.describe_end()}",
            todo="check that there is memory for as many workers, or ask for fewer",
        )
