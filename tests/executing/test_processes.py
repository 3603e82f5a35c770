"""Local worker processes: what is killed, refused or interrupted loses nothing and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from mbdeploy.errors import DataError, StepError, UsageError
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.executing.processes import LocalExecutor

pytestmark = pytest.mark.slow  # each test starts processes

Make = Callable[..., list[Work]]


def read_calls(folder: Path) -> list[tuple[int, int]]:
    lines = (folder / "calls").read_text().splitlines()
    return [(int(n), int(pid)) for n, pid in map(str.split, lines)]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_results_come_in_the_order_of_the_items_with_one_bar(make_works: Make, store: Store) -> None:
    steps: list[tuple[str, int, int]] = []
    works = make_works("square", 5)
    found = list(submit(works, LocalExecutor(2), store, title="square", on_progress=lambda *step: steps.append(step)))
    assert [done.value["square"] for done in found] == [0, 1, 4, 9, 16]
    assert [done.key for done in found] == [work.key for work in works]
    assert steps == [("square (2 workers)", done, 5) for done in range(6)]


def test_a_lost_run_is_resumed_and_an_item_that_is_there_twice_is_done_once(
    make_works: Make, store: Store, tmp_path: Path
) -> None:
    works = make_works("square", 4)
    list(submit(works[:2], LocalExecutor(1), store))
    found = list(submit([*works, works[3]], LocalExecutor(1), store))
    assert [done.value["square"] for done in found] == [0, 1, 4, 9, 9]
    assert sorted(n for n, _ in read_calls(tmp_path)) == [0, 1, 2, 3]


def test_a_killed_worker_loses_nothing_and_nothing_counts_twice(make_works: Make, store: Store, tmp_path: Path) -> None:
    found = list(submit(make_works("die_once", 5), LocalExecutor(2), store))
    assert [done.value["square"] for done in found] == [0, 1, 4, 9, 16]
    assert sorted(n for n, _ in read_calls(tmp_path)) == [0, 0, 1, 2, 2, 3, 4, 4]
    assert len(list(store.list_kept())) == 5


def test_an_item_that_costs_three_workers_is_given_up(make_works: Make, store: Store) -> None:
    with pytest.raises(StepError, match=r"item 0: .* 3 workers .* CRASHED: SIGKILL"):
        list(submit(make_works("die", 1), LocalExecutor(1), store))


def test_an_item_that_refuses_ends_the_run_with_its_own_error_and_what_was_done_stays(
    make_works: Make, store: Store
) -> None:
    with pytest.raises(DataError, match="image: expected a picture, found nothing"):
        list(submit(make_works("refuse", 3), LocalExecutor(1), store))
    assert len(list(store.list_kept())) == 1


def test_a_bug_in_an_item_is_a_bug_with_its_traceback(make_works: Make, store: Store) -> None:
    with pytest.raises(RuntimeError, match="ValueError: a bug"):
        list(submit(make_works("stumble", 1), LocalExecutor(1), store))


def test_a_run_that_is_left_leaves_no_process(make_works: Make, tmp_path: Path) -> None:
    class LeftError(Exception):
        pass

    answers = LocalExecutor(2).run([*make_works("square", 1), *make_works("sleep", 2)[1:]])
    with pytest.raises(LeftError), contextlib.closing(answers):
        next(answers)
        while len(read_calls(tmp_path)) < 2:
            time.sleep(0.01)
        raise LeftError
    assert [pid for _, pid in read_calls(tmp_path) if is_alive(pid)] == []


def test_exclusive_items_come_after_all_others_one_at_a_time(make_works: Make, tmp_path: Path) -> None:
    alone, shared = make_works("square", 4, exclusive=True)[2:], make_works("square", 2)
    list(LocalExecutor(2).run([*alone, *shared]))
    calls = read_calls(tmp_path)
    assert [n for n, _ in calls][2:] == [2, 3]
    assert len({pid for n, pid in calls if n >= 2}) == 1


def test_two_items_are_never_at_one_board_and_two_boards_are_used_at_once(make_works: Make, tmp_path: Path) -> None:
    works = [
        msgspec.structs.replace(work, device=f"dev_{n % 2}", exclusive=n > 3)
        for n, work in enumerate(make_works("be_at_board", 6))
    ]
    found = list(LocalExecutor(4).run(works))
    assert sorted(done.value["board"] for done in found) == [0, 0, 0, 1, 1, 1]
    assert {n for n, _ in read_calls(tmp_path)[4:]} == {4, 5}


def test_who_waits_for_a_board_does_not_keep_others_from_working(make_works: Make) -> None:
    held, waiting, free = make_works("meet", 3)
    works = [msgspec.structs.replace(held, device="dev_a"), msgspec.structs.replace(waiting, device="dev_a"), free]
    assert {done.value["n"] for done in LocalExecutor(2).run(works)} == {0, 1, 2}


@pytest.mark.parametrize(("workers", "cluster"), [(None, None), (2, "local:2"), (0, None)])
def test_workers_or_a_cluster_are_one_of_two(workers: int | None, cluster: str | None) -> None:
    with pytest.raises(UsageError, match="--workers N or --cluster"), open_executor(workers, cluster):
        pass
