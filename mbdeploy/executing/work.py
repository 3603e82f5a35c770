"""What is handed to workers and what comes back: one item of work, its key, its answer, and who does it."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Generator, Sequence
from typing import Any, Protocol

import msgspec

#: What a worker has to itself while it measures times of its host, beside the names of boards.
LATENCY = "latency"


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One item: ``function`` ("module:function") called with (``request``, a Progress) on some worker.

    ``identity`` is what decides the result: digests of what is read, options, device, versions; paths do not belong
    there. ``size`` is how much of the whole it is (images, say), for the bar. ``device`` is the board that the item
    needs, as :func:`mbdeploy.targets.find_device` calls it: no two items are at one board. An ``exclusive`` item is a
    measurement of time: nothing else of the run is on its host, which is the board where there is one, meanwhile.
    ``name`` is how messages call it.
    """

    name: str
    function: str
    request: dict[str, Any]
    identity: dict[str, Any]
    size: int = 1
    device: str = ""
    exclusive: bool = False

    @property
    def key(self) -> str:
        """The SHA-256 of what decides the result: equal keys, equal results."""
        plain = msgspec.json.encode([self.function, self.identity], order="deterministic")
        return hashlib.sha256(plain).hexdigest()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to an item: plain data, the seconds that it took, and the worker that gave it."""

    key: str
    value: Any
    seconds: float
    worker: str


def list_phases(works: Sequence[Work]) -> list[list[Work]]:
    """Rule 4 of :class:`Executor`: what is shared, what is alone on a board, what is alone on a host."""
    alone = [work for work in works if work.exclusive]
    return [
        [work for work in works if not work.exclusive],
        [work for work in alone if work.device],
        [work for work in alone if not work.device],
    ]


def name_resource(work: Work) -> str:
    """What the worker that does this item must have to itself: a board, or its host while times are taken; or ""."""
    return work.device or (LATENCY if work.exclusive else "")


class Executor(Protocol):
    """Who does the work.

    Rules: 1. each item of ``run`` is answered at least once, in any order; an item whose worker is lost is given to
    another one, and given up (StepError) if it has cost three. 2. An item that refuses ends the run with its error.
    3. However ``run`` ends, nothing of it goes on. 4. ``exclusive`` items follow all others: those of boards first, two
    boards at a time, then those of hosts, while nothing else runs.
    """

    @property
    def words(self) -> str:
        """Who they are, for the bar: "2 workers"."""

    @property
    def link(self) -> str:
        """Where to watch them; empty where there is nothing to see."""

    def demand(self, devices: Collection[str], *, times: bool) -> None:
        """Raise UnavailableError if items of these boards, or ``times`` of hosts, could not be served; before work."""

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """Answers as they come."""

    def close(self) -> None:
        """Let go of the workers; those that were started for this run end."""
