"""Fixtures of the executors: functions that a worker can import, and a store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbdeploy.executing import Store, Work

#: What the items of these tests do; a worker imports it from the test's folder.
SOURCE = """
import os, pathlib, signal, time
from mbdeploy.errors import DataError

def square(request, on_progress):
    note(request)
    return {"square": request["n"] ** 2}

def die_once(request, on_progress):
    note(request)
    flag = pathlib.Path(request["folder"], f"died-{request['n']}")
    if request["n"] % 2 == 0 and not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": request["n"] ** 2}

def die(request, on_progress):
    os.kill(os.getpid(), signal.SIGKILL)

def refuse(request, on_progress):
    if request["n"] == 1:
        raise DataError(where="image", expected="a picture", found="nothing", todo="give one")
    return {}

def stumble(request, on_progress):
    raise ValueError("a bug")

def wait(request, on_progress):
    note(request)
    while request["n"] % 4 and not pathlib.Path(request["folder"], "go").exists():
        time.sleep(0.02)
    return {"square": request["n"] ** 2}

def sleep(request, on_progress):
    note(request)
    while True:
        time.sleep(0.05)
        on_progress("sleeping", 0, 0)

def be_at_board(request, on_progress):
    note(request)
    board = request["n"] % 2
    place = pathlib.Path(request["folder"], f"board-{board}")
    place.mkdir()  # somebody who is there already is an error
    if request["n"] < 2:  # the first at each board waits for the first at the other one
        pathlib.Path(request["folder"], f"here-{board}").touch()
        while not pathlib.Path(request["folder"], f"here-{1 - board}").exists():
            time.sleep(0.01)
    place.rmdir()
    return {"board": board}

def meet(request, on_progress):
    note(request)
    while request["n"] == 0 and not pathlib.Path(request["folder"], "met-2").exists():
        time.sleep(0.01)
    pathlib.Path(request["folder"], f"met-{request['n']}").touch()
    return {"n": request["n"]}

def note(request):
    with open(pathlib.Path(request["folder"], "calls"), "a") as file:
        file.write(f"{request['n']} {os.getpid()}\\n")
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store."""
    return Store(tmp_path / "store")


@pytest.fixture
def make_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Work]]:
    """Items 0..``count`` that call ``name`` of SOURCE."""
    (tmp_path / "mbdeploy_work_of_one_test.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, count: int, **fields: bool) -> list[Work]:
        return [
            Work(
                name=f"item {n}",
                function=f"mbdeploy_work_of_one_test:{name}",
                request={"n": n, "folder": str(tmp_path)},
                identity={"n": n},
                **fields,
            )
            for n in range(count)
        ]

    return make
