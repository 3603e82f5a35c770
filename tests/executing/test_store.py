"""The store: a result is there whole, under the key of what decides it, or it is not there."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from mbdeploy.errors import OutputError
from mbdeploy.executing import Done, Store, Work


def make_work(**changes: object) -> Work:
    fields: dict[str, object] = {"name": "a", "function": "m:f", "request": {"path": "/a"}, "identity": {"model": "12"}}
    return Work(**{**fields, **changes})  # type: ignore[arg-type]


def test_the_key_follows_what_decides_the_result_and_nothing_else() -> None:
    key = make_work().key
    assert make_work(name="b", request={"path": "/b"}, size=7, exclusive=True).key == key
    assert make_work(identity={"model": "13"}).key != key
    assert make_work(function="m:g").key != key


def test_what_is_written_is_read_again(store: Store) -> None:
    work = make_work()
    done = Done(key=work.key, value={"x": 0.1, "y": [1, None]}, seconds=2.5, worker="w")
    store.write(work, done)
    store.write(work, done)
    assert store.read(work.key) == done
    assert [kept.identity for kept in store.list_kept()] == [{"model": "12"}]
    assert store.read(make_work(identity={}).key) is None


def test_numbers_that_json_lacks_are_not_lost(store: Store) -> None:
    work = make_work()
    store.write(work, Done(key=work.key, value={"db": math.inf}, seconds=0.0, worker="w"))
    found = store.read(work.key)
    assert found is not None and float(found.value["db"]) == math.inf


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b.replace(b"0.125", b"0.625"), lambda b: b""])
def test_a_damaged_result_is_none(store: Store, damage: object) -> None:
    work = make_work()
    store.write(work, Done(key=work.key, value=0.125, seconds=0.0, worker="w"))
    path = next(store.folder.glob("??/*.json"))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert store.read(work.key) is None


def test_a_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    work = make_work()
    with pytest.raises(OutputError):
        Store(tmp_path / "file").write(work, Done(key=work.key, value=1, seconds=0.0, worker="w"))
