"""Workers on other machines, through Dask distributed: a cluster that is there, or one of this machine's processes."""

from __future__ import annotations

import collections
import contextlib
import time
import uuid
from collections.abc import Collection, Generator, Sequence
from typing import Any

import msgspec

from mbdeploy.bounds import current_bounds
from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.executing.work import LATENCY, Done, Work, list_phases, name_resource
from mbdeploy.executing.worker import do_work, raise_error, read_versions, refuse_versions, stop_run

_CONNECT_S = 10.0
#: How long an answer that is ready may take to arrive: on a host with four processes a core 10 s were too short.
_READ_S = 120.0
#: How long a cluster without any worker is waited for (on such a host a new one takes half a minute to start), how
#: often it is asked, and how often answers are looked for.
_ALONE_S, _ASK_S, _LOOK_S = 120.0, 5.0, 0.01
#: A LocalCluster parts for good with a worker that it has not seen for 15 s, even while a new one is starting.
_PATIENCE = {"distributed.deploy.lost-worker-timeout": "1 hour"}
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
            import dask
            import distributed
        except ImportError as error:
            raise UnavailableError(
                where=word, expected="Dask, which --cluster needs", found="no package distributed", todo=_INSTALL
            ) from error
        self._distributed: Any = distributed
        self._word = word
        self._settings = contextlib.ExitStack()
        self._settings.enter_context(dask.config.set(_PATIENCE))
        self._cluster = self._client = None
        try:
            self._cluster = _start_local(distributed, word) if word.startswith("local:") else None
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

    def demand(self, devices: Collection[str], *, times: bool) -> None:
        """Refuse what no worker offers; a cluster that was started here needs no resources, see ``_run``."""
        if self._cluster is None:
            if times:
                self._refuse_times()
            for device in sorted(devices):
                self._refuse_device(device)

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """Answers as they come; see :class:`mbdeploy.executing.work.Executor`."""
        devices = {work.device for work in works if work.device}
        self.demand(devices, times=any(work.exclusive and not work.device for work in works))
        for phase in list_phases(works):
            yield from self._run(phase)

    def close(self) -> None:
        """Leave the cluster; one that was started here ends."""
        for part in (self._client, self._cluster):
            if part is not None:
                with contextlib.suppress(OSError, TimeoutError):
                    part.close(timeout=_CONNECT_S)
        self._client = self._cluster = None
        self._settings.close()

    def _run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """One phase. Items of one resource take turns: elsewhere the scheduler sees to it, as one worker has it; where
        all workers were started here, the next one is submitted when the one before it is done."""
        assert self._client is not None
        run = uuid.uuid4().hex
        turns: dict[str, collections.deque[Work]] = {}
        first = []
        for work in works:
            resource = name_resource(work)
            if self._cluster is not None and resource in turns:
                turns[resource].append(work)
                continue
            if resource:
                turns[resource] = collections.deque()
            first.append(work)
        futures = {self._submit(work, run): work for work in first}
        try:
            done = self._distributed.as_completed(list(futures), loop=self._client.loop)
            for future in self._follow(done):
                work, answer = futures.pop(future), self._read(future)
                raise_error(answer)
                if following := turns.get(name_resource(work)):
                    future = self._submit(following[0], run)
                    futures[future] = following.popleft()
                    done.add(future)
                yield Done(key=work.key, value=answer["value"], seconds=answer["seconds"], worker=self._word)
        finally:
            if futures:
                with contextlib.suppress(Exception):  # the cluster may be what ended us
                    self._client.cancel(list(futures), force=True)
                    self._client.run(stop_run, run)

    def _follow(self, done: Any) -> Generator[Any, None, None]:
        """The futures of an ``as_completed`` as they are ready; a cluster that has lost all its workers is left."""
        assert self._client is not None
        seen = asked = time.monotonic()
        while not done.is_empty():
            if done.has_ready():
                yield next(done)
                seen = asked = time.monotonic()
                continue
            time.sleep(_LOOK_S)
            if time.monotonic() - asked < _ASK_S:
                continue
            asked = time.monotonic()
            with contextlib.suppress(Exception):  # without a scheduler futures are lost, and that is an answer
                if self._client.nthreads():
                    seen = asked
            if asked - seen >= _ALONE_S:
                raise self._explain_loss("workers that stay", f"none for {asked - seen:.0f} s")

    def _submit(self, work: Work, run: str) -> Any:
        assert self._client is not None
        resource = name_resource(work)
        return self._client.submit(
            do_work,
            work.function,
            work.request,
            run=run,
            versions=self._versions,
            name=work.name,
            bounds=msgspec.structs.asdict(current_bounds()),
            key=f"{work.key}-{run}",
            resources={resource: 1} if resource and self._cluster is None else None,
            pure=False,
        )

    def _read(self, future: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = future.result(timeout=_READ_S)
        except self._distributed.KilledWorker as error:
            raise StepError(
                where=self._word,
                expected="an item that its worker survives",
                found=str(error).partition("\n")[0],
                todo="check that workers have memory enough, and see their logs",
            ) from error
        except Exception as error:  # cancelled, lost, or a connection that is gone
            found = str(error).partition("reason: ")[2] or f"{type(error).__name__}: {error}"
            raise self._explain_loss("a scheduler and workers that stay", found.partition("\n")[0]) from error
        return answer

    def _explain_loss(self, expected: str, found: str) -> UnavailableError:
        todo = "start them again and repeat the command: what was finished is kept"
        return UnavailableError(where=self._word, expected=expected, found=found, todo=todo)

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

    def _list_offers(self, resource: str) -> list[tuple[str, float]]:
        """Each worker that offers a resource: its host, and how much."""
        assert self._client is not None
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        offers = [(worker["host"], float(worker.get("resources", {}).get(resource, 0))) for worker in workers]
        return [offer for offer in offers if offer[1]]

    def _refuse_device(self, device: str) -> None:
        """Refuse a board that no worker, or more than one at a time, could talk to."""
        offers = self._list_offers(device)
        if [amount for _, amount in offers] != [1.0]:
            found = f"{len(offers)}, which offer {sum(amount for _, amount in offers):g} in all" if offers else "none"
            raise UnavailableError(
                where=self._word,
                expected=f"one worker with the resource {device}=1, which alone talks to that board",
                found=found,
                todo=f"start {'only ' if offers else ''}one where the board can be reached: "
                f"`dask worker {self._word} --nthreads 1 --resources {device}=1`",
            )

    def _refuse_times(self) -> None:
        """Refuse to measure times where no worker, or two of one host, may."""
        hosts = [host for host, _ in self._list_offers(LATENCY)]
        if not hosts or len(set(hosts)) != len(hosts):
            raise UnavailableError(
                where=self._word,
                expected=f"one worker a host with the resource {LATENCY}, for measurements of time",
                found="none" if not hosts else f"{len(hosts)} on {len(set(hosts))} hosts",
                todo=f"start one with `dask worker {self._word} --nthreads 1 --resources {LATENCY}=1`",
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
