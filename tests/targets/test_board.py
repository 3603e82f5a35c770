"""What runs on a board: its lock, its temperature, the files that arrive, and what an earlier job left behind."""

from __future__ import annotations

import ast
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mbdeploy.targets.board import far
from mbdeploy.targets.board.far import DamagedError, Line, LostError


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    """(far, near): what one says the other hears."""
    to_far, to_near = os.pipe(), os.pipe()
    yield Line(to_far[0], to_near[1], 0.5, 0.05), Line(to_near[0], to_far[1], 0.5, 0.05)
    for number in (*to_far, *to_near):
        os.close(number)


def test_what_is_sent_to_a_board_is_python_3_9_with_its_standard_library() -> None:
    tree = ast.parse(Path(far.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_messages_and_files_arrive_as_they_were_and_beats_are_not_seen(ends: tuple[Line, Line], tmp_path: Path) -> None:
    content = bytes(range(256)) * 8
    (tmp_path / "sent").write_bytes(content)
    to, at = ends[1], ends[0]
    to.send(b"\n\n")
    to.send_file(tmp_path / "sent", "m0/weights\n.bin")
    to.say(go=True)
    message = at.hear()
    assert message == {"file": "m0/weights\n.bin", "size": len(content)}
    at.take_file(tmp_path / "taken", message["size"])
    assert (tmp_path / "taken").read_bytes() == content
    assert at.hear() == {"go": True}


def test_a_file_of_other_bytes_than_were_sent_is_damaged(ends: tuple[Line, Line], tmp_path: Path) -> None:
    ends[1].send(b"abc" + 64 * b"0")
    with pytest.raises(DamagedError, match="taken arrived damaged"):
        ends[0].take_file(tmp_path / "taken", 3)


def test_a_damaged_file_is_told_to_the_near_end(ends: tuple[Line, Line], scratch: Path) -> None:
    ends[1].say(file="input.npy", size=3)
    ends[1].send(b"abc" + 64 * b"0")
    with pytest.raises(SystemExit):
        far.take_files(ends[0], scratch)
    assert ends[1].hear() == {"failed": "input.npy arrived damaged", "kind": "TRANSPORT"}


def test_silence_and_an_end_are_a_lost_connection(ends: tuple[Line, Line]) -> None:
    with pytest.raises(LostError, match=r"nothing came for 0\.5 s"):
        ends[0].hear()
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(LostError, match="the connection ended"):
        Line(read, None).hear()
    os.close(read)


def test_who_infers_shares_the_board_and_who_measures_has_it_alone(ends: tuple[Line, Line]) -> None:
    first, second = (far.take_lock(ends[0], "shared", 0) for _ in range(2))
    with pytest.raises(SystemExit):
        far.take_lock(ends[0], "alone", 0)
    assert ends[1].hear() == {"busy": "runs that do not measure"}
    os.close(first)
    os.close(second)
    alone = far.take_lock(ends[0], "alone", 0)
    with pytest.raises(SystemExit):
        far.take_lock(ends[0], "shared", 0)
    assert " since " in ends[1].hear()["busy"]
    os.close(alone)
    os.close(far.take_lock(ends[0], "shared", 0))


def test_who_waits_for_the_board_is_told_who_has_it_and_gets_it_then(ends: tuple[Line, Line]) -> None:
    alone = far.take_lock(ends[0], "alone", 0)
    taken: list[int] = []
    waiting = threading.Thread(target=lambda: taken.append(far.take_lock(ends[0], "alone", 60)))
    waiting.start()
    assert " since " in ends[1].hear()["held"]
    os.close(alone)
    while waiting.is_alive():
        ends[1].send(b"\n")
        waiting.join(0.05)
    os.close(taken[0])


def test_another_user_may_lock_the_board_too_and_a_link_in_place_of_the_lock_is_refused(scratch: Path) -> None:
    os.close(far.open_lock())
    lock = scratch / far.LOCK
    assert lock.stat().st_mode & 0o777 == 0o666
    lock.unlink()
    (scratch / "victim").write_text("kept")
    lock.symlink_to(scratch / "victim")
    with pytest.raises(OSError, match="symbolic links"):
        far.open_lock()


def test_heat_is_the_hottest_zone_and_every_policys_governor_and_frequency(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "SYSTEM", tmp_path / "sys")
    assert far.read_heat() == {}
    write_system(tmp_path / "sys", 51300, 48000, -274000, 900000)
    for number, (governor, khz) in enumerate((("ondemand", 1500000), ("performance", 2400000))):
        policy = tmp_path / "sys" / "devices/system/cpu/cpufreq" / f"policy{number}"
        policy.mkdir(parents=True)
        (policy / "scaling_governor").write_text(f"{governor}\n")
        (policy / "scaling_cur_freq").write_text(f"{khz}\n")
    assert far.read_heat() == {"celsius": 51.3, "governors": ["ondemand", "performance"], "mhz": [1500, 2400]}


def test_a_hot_board_is_waited_for_and_a_cool_one_is_not(
    ends: tuple[Line, Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(far, "SYSTEM", tmp_path / "sys")
    write_system(tmp_path / "sys", 71000)
    assert far.cool_down(ends[0], 75.0, 60.0) < 1
    assert far.cool_down(ends[0], 65.0, 0.2) >= 0.2
    assert ends[1].hear() == {"cooling": 71.0}


def test_folders_of_killed_jobs_are_swept_and_those_in_use_are_not(scratch: Path) -> None:
    old = 1_000_000_000
    for name in ("mbdeploy-board-dead", "mbdeploy-board-used", "mbdeploy-board-young", "something-else"):
        (scratch / name).mkdir()
        (scratch / name / ".lock").touch()
    for name in ("mbdeploy-board-dead", "mbdeploy-board-used", "something-else"):
        os.utime(scratch / name, (old, old))
    with (scratch / "mbdeploy-board-used" / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        far.sweep()
    assert sorted(path.name for path in scratch.iterdir()) == [
        "mbdeploy-board-used",
        "mbdeploy-board-young",
        "something-else",
    ]


def test_a_package_whose_import_does_not_end_is_given_up(
    ends: tuple[Line, Line], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "endless.py").write_text("import time; time.sleep(600)")
    monkeypatch.setattr(far, "IMPORT_S", 0.2)
    ends[0].silence_s = 60.0
    found = far.import_packages(ends[0], sys.executable, ["json", "endless"], {"PYTHONPATH": str(tmp_path)})
    assert "endless" not in found["versions"]
    assert found["failed"] == "it took longer than 0.2 s"
    assert found["python"] == sys.version_info[:2]


def write_system(folder: Path, *millidegrees: int) -> None:
    for number, value in enumerate(millidegrees):
        zone = folder / "class" / "thermal" / f"thermal_zone{number}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(f"{value}\n")
