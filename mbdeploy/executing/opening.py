"""From the user's words to workers: processes of this machine, or a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mbdeploy.errors import UsageError
from mbdeploy.executing.processes import LocalExecutor
from mbdeploy.executing.work import Executor


@contextlib.contextmanager
def open_executor(workers: int | None, cluster: str | None) -> Iterator[Executor]:
    """Yield ``workers`` processes here, or the cluster ``local:N`` or ``tcp://host:port``; let go of them after.

    Raises:
        UsageError: both, or neither, or fewer than one. UnavailableError: a cluster that is not there.
    """
    if (workers is None) == (cluster is None) or (workers is not None and workers < 1):
        found = "both" if workers and cluster else str(workers)
        raise UsageError(expected="--workers N or --cluster ADDRESS", found=found, todo="give one of them")
    executor: Executor
    if cluster is None:
        executor = LocalExecutor(workers or 1)
    else:
        from mbdeploy.executing.cluster import ClusterExecutor

        executor = ClusterExecutor(cluster)
    try:
        yield executor
    finally:
        executor.close()
