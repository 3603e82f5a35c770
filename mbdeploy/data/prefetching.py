"""The next batch is decoded while the one before it is at work."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar, cast

T = TypeVar("T")
_END = object()
_POLL_S = 0.1


def prefetch(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items in the same order, made by a thread that is at most two ahead.

    Rules: 1. what the making raises is raised here, in its place. 2. When this is closed early, the thread ends with
    the item that it is at.
    """
    ready: queue.Queue[tuple[object, BaseException | None]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(item: object, error: BaseException | None) -> None:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((item, error), timeout=_POLL_S)
                return

    def make() -> None:
        try:
            for item in items:
                put(item, None)
                if stopped.is_set():
                    return
            put(_END, None)
        except BaseException as error:  # it belongs to whoever takes the items
            put(_END, error)

    thread: Any = threading.Thread(target=make, name="prefetch", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield cast("T", item)
    finally:
        stopped.set()
        thread.join()
