"""Dask clusters of the tests' own: a scheduler and nodes, every one a process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

HAS_DASK = importlib.util.find_spec("distributed") is not None
needs_dask = pytest.mark.skipif(not HAS_DASK, reason="needs Dask distributed: pip install 'mbdeploy[cluster]'")
#: What tests with Dask have in common.
DASK = (
    needs_dask,
    pytest.mark.cluster,
    pytest.mark.filterwarnings("default"),  # Dask's own
)


class Cluster:
    """A scheduler and nodes (a nanny and its worker each), every one a process of this test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._processes = folder, contextlib.ExitStack()
        self.start_scheduler()

    def start_scheduler(self) -> None:
        told = self._folder / "scheduler.json"
        told.unlink(missing_ok=True)
        words = ["scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(told)]
        self.scheduler = self._start([sys.executable, "-m", "dask", *words])
        while not told.is_file() or not told.read_text():
            time.sleep(0.05)
        self.address: str = json.loads(told.read_text())["address"]

    def start_node(self, words: Sequence[str] = ()) -> subprocess.Popen[bytes]:
        """A node by this command, or one that offers nothing; it is there when this returns."""
        import distributed

        plain = [sys.executable, "-m", "dask", "worker", self.address, "--nthreads", "1", "--no-dashboard"]
        with distributed.Client(self.address, set_as_default=False) as client:
            before = len(client.scheduler_info(n_workers=-1)["workers"])
            node = self._start(words or plain)
            client.wait_for_workers(before + 1, timeout=120)
        return node

    def close(self) -> None:
        self._processes.close()

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        paths = os.pathsep.join([str(self._folder), *sys.path])
        log = self._processes.enter_context((self._folder / "log").open("ab"))
        process = subprocess.Popen(
            list(words), env={**os.environ, "PYTHONPATH": paths}, stderr=log, stdout=log, cwd=self._folder
        )
        self._processes.callback(end, process)
        return process


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and what it started."""
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
    process.kill()
    process.wait()
