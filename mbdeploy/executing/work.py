"""What is handed to workers and what comes back: one item of work, its key, its answer, and who does it."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Sequence
from typing import Any, Protocol

import msgspec


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """One item: ``function`` ("module:function") called with (``request``, a Progress) on some worker.

    ``identity`` is what decides the result: digests of what is read, options, device, versions; paths do not belong
    there. ``size`` is how much of the whole it is (images, say), for the bar. An ``exclusive`` item is a measurement
    of time: nothing else of the run is on its host meanwhile. ``name`` is how messages call it.
    """

    name: str
    function: str
    request: dict[str, Any]
    identity: dict[str, Any]
    size: int = 1
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


class Executor(Protocol):
    """Who does the work.

    Rules: 1. each item of ``run`` is answered at least once, in any order; an item whose worker is lost is given to
    another one, and given up (StepError) if it has cost three. 2. An item that refuses ends the run with its error.
    3. However ``run`` ends, nothing of it goes on. 4. ``exclusive`` items follow all others.
    """

    @property
    def words(self) -> str:
        """Who they are, for the bar: "2 workers"."""

    @property
    def link(self) -> str:
        """Where to watch them; empty where there is nothing to see."""

    def run(self, works: Sequence[Work]) -> Generator[Done, None, None]:
        """Answers as they come."""

    def close(self) -> None:
        """Let go of the workers; those that were started for this run end."""
