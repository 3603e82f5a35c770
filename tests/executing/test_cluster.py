"""Dask workers: the same results, other versions refused, nothing lost and nothing left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from clusters import HAS_DASK, needs_dask

from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.executing.cluster import ClusterExecutor
from mbdeploy.executing.work import LATENCY
from mbdeploy.executing.worker import read_versions, refuse_versions

Make = Callable[..., list[Work]]


@pytest.fixture
def cluster(make_works: Make) -> Iterator[ClusterExecutor]:
    """Two worker processes; ``make_works`` comes first, so that they find its functions."""
    with open_executor(None, "local:2") as executor:
        assert isinstance(executor, ClusterExecutor)
        yield executor


def read_calls(folder: Path) -> list[tuple[int, int]]:
    return [(int(n), int(pid)) for n, pid in map(str.split, (folder / "calls").read_text().splitlines())]


@needs_dask
@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Dask's own processes
def test_a_cluster_gives_each_result_once_even_if_workers_are_killed(
    cluster: ClusterExecutor, make_works: Make, store: Store, tmp_path: Path
) -> None:
    assert cluster.words == "2 workers of local:2"
    assert cluster.link.startswith("http://127.0.0.1:")
    found = list(submit(make_works("die_once", 4), cluster, store))
    assert [done.value["square"] for done in found] == [0, 1, 4, 9]
    assert {0, 1, 2, 3} == {n for n, _ in read_calls(tmp_path)}
    assert len(list(store.list_kept())) == 4


@needs_dask
@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_run_on_a_cluster_that_is_left_stops_its_items_and_a_deadly_item_is_given_up(
    cluster: ClusterExecutor, make_works: Make, tmp_path: Path
) -> None:
    with contextlib.closing(cluster.run([*make_works("square", 1), *make_works("sleep", 3)[1:]])) as answers:
        next(answers)
        while len(read_calls(tmp_path)) < 2:
            time.sleep(0.01)
    done = list(cluster.run(make_works("square", 3)[2:]))  # a worker is free again
    assert [answer.value for answer in done] == [{"square": 4}]
    with pytest.raises(StepError, match="an item that its worker survives"):
        list(cluster.run(make_works("die", 1)))
    assert [one.value for one in cluster.run(make_works("square", 2, exclusive=True))] == [{"square": 0}, {"square": 1}]
    with pytest.raises(UnavailableError, match=f"one worker a host with the resource {LATENCY}"):
        cluster._refuse_times()  # what a cluster elsewhere is asked


@needs_dask
@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_worker_that_takes_long_to_start_again_is_waited_for(make_works: Make) -> None:
    import dask

    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1ms"}):  # the start is long beside it
        alone = ClusterExecutor("local:1")
        try:
            assert [one.value for one in alone.run(make_works("die_once", 1))] == [{"square": 0}]
        finally:
            alone.close()
        assert dask.config.get("distributed.deploy.lost-worker-timeout") == "1ms"


@needs_dask
@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_that_has_lost_all_its_workers_is_not_waited_for_for_ever(
    make_works: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbdeploy.executing.cluster._ASK_S", 0.05)
    monkeypatch.setattr("mbdeploy.executing.cluster._ALONE_S", 0.2)
    alone = ClusterExecutor("local:1")
    try:
        alone._cluster.scale(0)
        with pytest.raises(UnavailableError, match="expected workers that stay, found none for"):
            list(alone.run(make_works("square", 2)))
    finally:
        alone.close()


@needs_dask
@pytest.mark.cluster
@pytest.mark.parametrize("word", ["local:0", "local:many", "somewhere"])
def test_a_word_that_is_no_cluster_is_refused(word: str) -> None:
    with pytest.raises(UsageError), open_executor(None, word):
        pass


@pytest.mark.skipif(HAS_DASK, reason="Dask is installed")
def test_without_dask_the_one_command_is_named() -> None:
    with pytest.raises(UnavailableError, match=r"pip install mbdeploy\[cluster\]"), open_executor(None, "local:2"):
        pass


def test_a_worker_of_another_version_is_refused() -> None:
    versions = read_versions()
    refuse_versions("tcp://one", versions, versions)
    with pytest.raises(UnavailableError, match=r"tcp://one: expected mbdeploy .*, found 0.0.1"):
        refuse_versions("tcp://one", {**versions, "mbdeploy": "0.0.1"}, versions)
