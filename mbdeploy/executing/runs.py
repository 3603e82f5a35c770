"""A run that was stopped can be gone on with: which one it is, as long as nobody has ended it."""

from __future__ import annotations

import contextlib
import hashlib
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.decoding import decode_json
from mbdeploy.executing.store import Store


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a command, however often it was stopped: ``began_s`` is in seconds of Unix time."""

    name: str
    began_s: float

    @property
    def began(self) -> str:
        """When, as people read it."""
        return datetime.fromtimestamp(self.began_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


@contextlib.contextmanager
def taking_up(store: Store, identity: dict[str, Any], *, longest_s: float) -> Iterator[Run]:
    """Yield the run of this ``identity`` that was stopped less than ``longest_s`` seconds after it began, or a new one.

    Rules: 1. a run that ends well is over: the next one is new. 2. One that is left by an error, a signal or a crash is
    taken up by whoever asks for the same. So a result with the run's name in its key stands in for no other run's.

    Raises:
        OutputError: the store cannot be written.
    """
    key = hashlib.sha256(msgspec.json.encode(identity, order="deterministic")).hexdigest()
    path = store.folder / "runs" / f"{key}.json"
    try:
        run = decode_json(path.read_bytes(), Run)
    except (OSError, msgspec.MsgspecError):
        run = None
    if run is None or not 0 <= time.time() - run.began_s < longest_s:
        run = Run(name=uuid.uuid4().hex, began_s=time.time())
        artifact.write_json(path, run)
    yield run
    path.unlink(missing_ok=True)  # 1.
