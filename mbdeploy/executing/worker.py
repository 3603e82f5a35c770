"""A worker's side: do one item and say how it ended, in words that travel between processes and machines."""

from __future__ import annotations

import importlib
import os
import signal
import time
import traceback
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from mbdeploy import artifact, errors
from mbdeploy.bounds import Bounds, set_bounds
from mbdeploy.results import encode_result

#: What must be the same on every worker: these versions decide the last bit of a result.
TOOLS = ("numpy", "onnx", "onnxruntime", "pillow")
_STOPPED: set[str] = set()


class StoppedError(Exception):
    """The run that an item belongs to was stopped."""


def read_versions() -> dict[str, str]:
    """Versions of mbdeploy and of what decides its results, as they are in this process."""
    return artifact.read_tools(*TOOLS)


def stop_run(run: str) -> None:
    """Let the items of this run, in this process, end at their next sign of progress."""
    _STOPPED.add(run)


def do_work(
    function: str,
    request: dict[str, Any],
    *,
    run: str,
    versions: dict[str, str],
    name: str,
    bounds: dict[str, Any],
) -> dict[str, Any]:
    """Do one item: {"value", "seconds"}, or {"error", "fields"} where it refuses, or {"bug"} with the traceback.

    A worker whose versions are others than ``versions`` refuses. ``bounds`` are those of the one who asks.
    """

    def on_progress(what: str, done: int, total: int) -> None:
        if run in _STOPPED:
            raise StoppedError(run)

    started = time.monotonic()
    set_bounds(Bounds(**bounds))
    module, _, called = function.partition(":")
    try:
        refuse_versions(name, read_versions(), versions)
        value = getattr(importlib.import_module(module), called)(request, on_progress)
        plain = msgspec.json.decode(encode_result(value))
    except errors.MbdeployError as error:
        return errors.pack_error(error)
    except StoppedError:
        return {"stopped": True}
    except Exception:
        return {"bug": traceback.format_exc()}
    return {"value": plain, "seconds": time.monotonic() - started}


def raise_error(answer: dict[str, Any]) -> None:
    """Raise what a worker's answer says, if it is not a result.

    Raises:
        MbdeployError: the item refused. RuntimeError: a bug of ours, with the worker's traceback.
    """
    if "error" in answer:
        raise errors.unpack_error(answer)
    if "value" not in answer:
        raise RuntimeError(f"a worker failed:\n{answer.get('bug', answer)}")


def refuse_versions(worker: str, found: dict[str, str], wanted: dict[str, str]) -> None:
    """Raise UnavailableError if a worker has other versions than the one who asks."""
    unlike = {tool: found.get(tool, "absent") for tool, version in wanted.items() if found.get(tool) != version}
    if unlike:
        raise errors.UnavailableError(
            where=worker,
            expected=", ".join(f"{tool} {wanted[tool]}" for tool in unlike),
            found=", ".join(unlike.values()),
            todo="install the same versions on every worker",
        )


def serve(descriptor: int, bounds: dict[str, Any]) -> None:
    """Answer requests that come through a pipe until its other end is closed (started by LocalExecutor only)."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends what an item started, too
    pipe: Any = Connection(descriptor)
    name = f"process {os.getpid()}"
    try:
        while True:
            asked = msgspec.json.decode(pipe.recv_bytes())
            pipe.send_bytes(msgspec.json.encode(do_work(**asked, run="", versions={}, name=name, bounds=bounds)))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        return
