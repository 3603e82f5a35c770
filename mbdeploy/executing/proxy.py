"""A Dask worker that has something to itself: a board, which it alone talks to, or its host, on which it measures."""

from __future__ import annotations

import importlib.util
import sys

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.executing.work import LATENCY
from mbdeploy.targets import Job, find_device, open_target, parse_provider
from mbdeploy.targets.job import refuse_emulated_times


def plan_worker(address: str, *, provider: str = "cpu", dry_run: bool = False) -> list[str]:
    """The command of a worker for the cluster at ``address`` that measures on ``provider``.

    Rules: 1. for a board its resource is the board's name (``dev_…=1``), else ``latency=1``. 2. It has one thread, so
    one item at a time. 3. Unless ``dry_run``, the machine is asked first whether it is there.

    Raises:
        UsageError: no address, or a provider without times. UnavailableError: no Dask, or nobody at the board.
    """
    if "://" not in address:
        raise UsageError(
            where=address, expected="a scheduler's address", found="another word", todo="say tcp://HOST:8786"
        )
    if importlib.util.find_spec("distributed") is None:
        raise UnavailableError(
            expected="Dask, which a worker needs",
            found="no package distributed",
            todo="run `pip install mbdeploy[cluster]`",
        )
    where = parse_provider(provider)
    target = open_target(where)
    refuse_emulated_times(target, "bench")
    if not dry_run:  # 3.
        target.run(Job(kind="probe"))
    resource = find_device(where) or LATENCY  # 1.
    worker = [sys.executable, "-m", "dask", "worker", address]
    return [*worker, "--nworkers", "1", "--nthreads", "1", "--resources", f"{resource}=1", "--no-dashboard"]
