"""Workers on other machines, through Dask distributed: a cluster that is there, or one of this machine's processes."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from mbdeploy.bounds import current_bounds
from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.executing.work import Done, Work
from mbdeploy.executing.worker import do_work, raise_error, read_versions, refuse_versions, stop_run

#: The Dask resource of which one worker a host has one, so that measurements of time are alone there.
LATENCY = "latency"
_CONNECT_S = 10.0
_INSTALL = "run `pip install mbdeploy[cluster]`"


class ClusterExecutor:
    """A Dask cluster: ``local:N`` starts N processes here, any other word is a scheduler's address (tcp://host:8786).

    Files must lie under the same paths on every worker; each item checks their digests.

    Raises:
        UnavailableError: no package ``distributed``, nobody at the address, no worker, or one with other versions.
        UsageError: a word that is neither.
    """

    def __init__(self, word: str) -> None:
        try:
            import distributed
        except ImportError as error:
            raise UnavailableError(
                where=word, expected="Dask, which --cluster needs", found="no package distributed", todo=_INSTALL
            ) from error
        self._distributed: Any = distributed
        self._word = word
        self._cluster = _start_local(distributed, word) if word.startswith("local:") else None
        self._client = None
        try:
            self._client = _connect(distributed, word, self._cluster)
            self._versions = read_versions()
            self._workers = self._client.run(read_versions, on_error="return")
            self._refuse_workers()
        except BaseException:
            self.close()
            raise

    @property
    def words(self) -> str:
        """ "2 workers of tcp://host:8786"."""
        return f"{len(self._workers)} workers of {self._word}"

    @property
    def link(self) -> str:
        """The address of Dask's dashboard."""
        return str(self._client.dashboard_link or "") if self._client else ""

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """Answers as they come; see :class:`mbdeploy.executing.work.Executor`."""
        alone = [work for work in works if work.exclusive]
        yield from self._run([work for work in works if not work.exclusive], None)
        if alone and self._cluster is None:
            self._refuse_exclusive()
            yield from self._run(alone, {LATENCY: 1})
            return
        for work in alone:  # all workers are on this host: one item at a time
            yield from self._run([work], None)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        for part in (self._client, self._cluster):
            if part is not None:
                with contextlib.suppress(OSError, TimeoutError):
                    part.close(timeout=_CONNECT_S)
        self._client = self._cluster = None

    def _run(self, works: Sequence[Work], resources: dict[str, int] | None) -> Generator[Done, None, None]:
        assert self._client is not None
        run = uuid.uuid4().hex
        futures = {
            self._client.submit(
                do_work,
                work.function,
                work.request,
                run=run,
                versions=self._versions,
                name=work.name,
                bounds=msgspec.structs.asdict(current_bounds()),
                key=f"{work.key}-{run}",
                resources=resources,
                pure=False,
            ): work
            for work in works
        }
        try:
            for future in self._distributed.as_completed(list(futures), loop=self._client.loop):
                work, answer = futures.pop(future), self._read(future)
                raise_error(answer)
                yield Done(key=work.key, value=answer["value"], seconds=answer["seconds"], worker=self._word)
        finally:
            if futures:
                with contextlib.suppress(Exception):  # the cluster may be what ended us
                    self._client.cancel(list(futures), force=True)
                    self._client.run(stop_run, run)

    def _read(self, future: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = future.result(timeout=_CONNECT_S)
        except self._distributed.KilledWorker as error:
            raise StepError(
                where=self._word,
                expected="an item that its worker survives",
                found=str(error).partition("\n")[0],
                todo="check that workers have memory enough, and see their logs",
            ) from error
        except Exception as error:  # cancelled, lost, or a connection that is gone
            raise UnavailableError(
                where=self._word,
                expected="a scheduler and workers that stay",
                found=(str(error).partition("reason: ")[2] or f"{type(error).__name__}: {error}").partition("\n")[0],
                todo="start them again and repeat the command: what was finished is kept",
            ) from error
        return answer

    def _refuse_workers(self) -> None:
        if not self._workers:
            raise UnavailableError(
                where=self._word, expected="at least one worker", found="none", todo="start one: `dask worker ADDRESS`"
            )
        for address, found in self._workers.items():
            if not isinstance(found, dict):
                raise UnavailableError(
                    where=address, expected="a worker with mbdeploy", found=str(found), todo="install mbdeploy there"
                )
            refuse_versions(address, found, self._versions)

    def _refuse_exclusive(self) -> None:
        """Refuse to measure times where no worker, or two of one host, may."""
        assert self._client is not None
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        hosts = [worker["host"] for worker in workers if worker.get("resources", {}).get(LATENCY)]
        if not hosts or len(set(hosts)) != len(hosts):
            raise UnavailableError(
                where=self._word,
                expected=f"one worker a host with the resource {LATENCY}, for measurements of time",
                found="none" if not hosts else f"{len(hosts)} on {len(set(hosts))} hosts",
                todo=f"start one with `dask worker ADDRESS --nthreads 1 --resources {LATENCY}=1`",
            )


def _start_local(distributed: Any, word: str) -> Any:
    number = word.removeprefix("local:")
    if not (number.isdecimal() and 1 <= int(number) <= 4096):
        raise UsageError(
            where=word, expected="local:N with N processes", found=f"{number!r}", todo="say local:2, or an address"
        )
    return distributed.LocalCluster(
        n_workers=int(number),
        threads_per_worker=1,
        processes=True,
        dashboard_address="127.0.0.1:0",
        resources={},
        silence_logs=50,
    )


def _connect(distributed: Any, word: str, cluster: Any) -> Any:
    if cluster is None and "://" not in word:
        raise UsageError(
            where=word, expected="a scheduler's address or local:N", found="neither", todo="say tcp://HOST:8786"
        )
    try:
        return distributed.Client(cluster or word, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise UnavailableError(
            where=word,
            expected="a Dask scheduler",
            found=str(error).partition("\n")[0],
            todo="start one with `dask scheduler`, or check the address",
        ) from error
