"""Results on disk, by the key of their work: written whole or not at all, so that a lost run goes on where it was."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.decoding import decode_json
from mbdeploy.executing.work import Done, Work
from mbdeploy.results import encode_result


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """One file of the store: the work by what decides its result, and the result; ``sha256`` is of its bytes."""

    function: str
    identity: dict[str, Any]
    seconds: float
    worker: str
    sha256: str
    value: msgspec.Raw
    schema_version: int = 1


class Store(msgspec.Struct, frozen=True):
    """Results below ``folder``, at KE/KEY.json.

    Rules: 1. a file that cannot be read, or whose bytes are not those it vouches for, is none: its work is done
    again. 2. The same key twice is one file: nothing counts twice. 3. Several runs may write here at a time.
    """

    folder: Path

    def read(self, key: str) -> Done | None:
        """The result that is kept under this key, if there is one."""
        kept = _read_file(self._locate(key))
        if kept is None or hashlib.sha256(kept.value).hexdigest() != kept.sha256:
            return None
        return Done(key=key, value=msgspec.json.decode(kept.value), seconds=kept.seconds, worker=kept.worker)

    def write(self, work: Work, done: Done) -> None:
        """Keep a result.

        Raises:
            OutputError: the folder cannot be written, or the disk is full.
        """
        value = encode_result(done.value)
        kept = Kept(
            function=work.function,
            identity=work.identity,
            seconds=done.seconds,
            worker=done.worker,
            sha256=hashlib.sha256(value).hexdigest(),
            value=msgspec.Raw(value),
        )
        artifact.write_bytes(self._locate(done.key), msgspec.json.encode(kept))

    def forget(self, key: str) -> None:
        """Let this result be none."""
        self._locate(key).unlink(missing_ok=True)

    def list_kept(self) -> Iterator[Kept]:
        """Every readable result, in the order of the keys."""
        for path in sorted(self.folder.glob("??/*.json")):
            kept = _read_file(path)
            if kept is not None:
                yield kept

    def _locate(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _read_file(path: Path) -> Kept | None:
    try:
        return decode_json(path.read_bytes(), Kept)
    except (OSError, msgspec.MsgspecError):
        return None
