"""From items of work to results: what is kept already is not done again, what is done is kept at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from mbdeploy.executing.store import Store
from mbdeploy.executing.work import Done, Executor, Work
from mbdeploy.isolate import Progress, ignore_progress


def submit(
    works: Sequence[Work],
    executor: Executor,
    store: Store,
    *,
    title: str = "working",
    on_progress: Progress = ignore_progress,
) -> Iterator[Done]:
    """Do the items and yield one result an item, in the order of the items, once all are done.

    Rules: 1. items of one key are done once. 2. A result is in the store before it counts. 3. One bar for all
    workers: what is kept from an earlier run counts as done. 4. Results are read from the store one by one, so memory
    does not grow with their number.

    Raises:
        MbdeployError: what an item refused with, or what ended the workers; finished items stay in the store.
    """
    missing = {work.key: work for work in works if store.read(work.key) is None}
    total = sum(work.size for work in works)
    sizes: dict[str, int] = {}
    for work in works:
        sizes[work.key] = sizes.get(work.key, 0) + work.size
    finished = total - sum(sizes[key] for key in missing)
    words = f"{title} ({executor.words})"
    on_progress(words, finished, total)
    if missing:
        with contextlib.closing(executor.run(list(missing.values()))) as answers:
            for done in answers:
                if done.key in missing:  # (at least once: a second answer says the same)
                    store.write(missing.pop(done.key), done)
                    finished += sizes[done.key]
                    on_progress(words, finished, total)
    for work in works:
        kept = store.read(work.key)
        if kept is None:
            raise RuntimeError(f"{work.name}: its result went missing from {store.folder}")
        yield kept
