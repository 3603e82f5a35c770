"""A Dask cluster of real processes: boards behind their proxies, and kill -9 of a worker, a node, the scheduler."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from clusters import DASK, Cluster, end

from mbdeploy.errors import MbdeployError, UnavailableError
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.executing.proxy import plan_worker

pytestmark = [*DASK, pytest.mark.slow]
Make = Callable[..., list[Work]]


@pytest.fixture
def cluster(make_works: Make, tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without nodes."""
    with contextlib.closing(Cluster(tmp_path)) as made:
        yield made


def read_calls(folder: Path) -> list[tuple[int, int]]:
    path = folder / "calls"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [(int(n), int(pid)) for n, pid in map(str.split, lines)]


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_board_s_items_go_to_its_proxy_alone_and_are_refused_without_one_or_with_two(
    cluster: Cluster, make_works: Make, tmp_path: Path
) -> None:
    cluster.start_node()
    works = [msgspec.structs.replace(work, device="dev_board1") for work in make_works("square", 4)]
    proxy = plan_worker(cluster.address, provider="cpu@ssh:pi@board1", dry_run=True)
    with (
        open_executor(None, cluster.address) as executor,
        pytest.raises(UnavailableError, match=r"the resource dev_board1=1, .* found none; start one where") as error,
    ):
        list(executor.run(works))
    assert error.value.exit_code == 3
    assert f"`dask worker {cluster.address} --nthreads 1 --resources dev_board1=1`" in error.value.todo
    assert read_calls(tmp_path) == []
    cluster.start_node(proxy)
    with open_executor(None, cluster.address) as executor:
        found = list(executor.run([*works[:2], *(msgspec.structs.replace(work, exclusive=True) for work in works[2:])]))
        assert sorted(done.value["square"] for done in found) == [0, 1, 4, 9]
        assert len({pid for _, pid in read_calls(tmp_path)}) == 1
        assert {n for n, _ in read_calls(tmp_path)[2:]} == {2, 3}
        with pytest.raises(UnavailableError, match="the resource latency, for measurements of time, found none"):
            executor.demand((), times=True)
    cluster.start_node(proxy)
    with (
        open_executor(None, cluster.address) as executor,
        pytest.raises(UnavailableError, match="found 2, which offer 2 in all; start only one"),
    ):
        executor.demand({"dev_board1"}, times=False)


def test_kill_nine_of_a_worker_then_of_a_node_then_of_the_scheduler_loses_nothing_and_counts_nothing_twice(
    cluster: Cluster, make_works: Make, store: Store, tmp_path: Path
) -> None:
    nodes = [cluster.start_node(), cluster.start_node()]
    works = make_works("wait", 8)

    def run(works: Sequence[Work]) -> list[Any]:
        with open_executor(None, cluster.address) as executor:
            return [done.value["square"] for done in submit(works, executor, store)]

    with running(lambda: run(works[:4])) as outcome:
        wait_until(lambda: len(read_calls(tmp_path)) >= 3)  # item 0 is done, two others are at work
        os.kill(read_calls(tmp_path)[-1][1], signal.SIGKILL)
        wait_until(lambda: len(read_calls(tmp_path)) >= 4)  # its nanny has started another worker
        end(nodes[0])
        (tmp_path / "go").touch()
    assert outcome == [[0, 1, 4, 9]]
    assert len(list(store.list_kept())) == 4

    (tmp_path / "go").unlink()
    with running(lambda: run(works)) as outcome:
        wait_until(lambda: len(list(store.list_kept())) == 5)  # item 4 is done, others wait
        end(cluster.scheduler)
    (error,) = outcome
    assert isinstance(error, UnavailableError) and "repeat the command: what was finished is kept" in error.todo
    (tmp_path / "go").touch()
    cluster.start_scheduler()
    cluster.start_node()
    before = len(read_calls(tmp_path))
    assert run(works) == [n * n for n in range(8)]
    assert {n for n, _ in read_calls(tmp_path)[before:]} == {5, 6, 7}
    assert len(list(store.list_kept())) == 8


@contextlib.contextmanager
def running(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Do this in a thread meanwhile; the list holds what it gave, or its error, when all is over."""
    outcome: list[Any] = []

    def do() -> None:
        try:
            outcome.append(work())
        except MbdeployError as error:
            outcome.append(error)

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join()
