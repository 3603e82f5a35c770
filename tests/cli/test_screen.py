"""Progress belongs to people: it is drawn on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from mbdeploy import artifact
from mbdeploy.cli.screen import Screen, describe_pace, has_color
from mbdeploy.isolate import ignore_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_drawn_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with screen.progress() as on_progress:
        assert on_progress is ignore_progress
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with screen.progress() as on_progress:
        on_progress("calibrate [red]\x1b[2J", 1, 4)
        on_progress("calibrate [red]\x1b[2J", 4, 4)
        screen.note("between [bold]the[/] bars")
        on_progress("load", 0, 0)
    assert "between [bold]the[/] bars" in terminal.getvalue()
    assert r"calibrate [red]\x1b[2J" in terminal.getvalue()
    assert "/4" in terminal.getvalue()
    assert "load" in terminal.getvalue()


def test_quiet_draws_and_notes_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    screen = Screen()
    screen.quiet = True
    screen.note_written(tmp_path)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with screen.progress() as on_progress:
        assert on_progress is ignore_progress
    assert capsys.readouterr().err == ""


def test_color_is_for_terminals_without_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert not has_color()
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert has_color()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not has_color()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not has_color()


@pytest.mark.parametrize(
    ("done", "left", "seconds", "said"),
    [
        (0, 128, 0.0, ""),
        (0, 128, 75.4, "1:15 so far"),
        (25, 103, 2.0, "12.5/s, 0:08 left"),
        (2, 3, 9.0, "4.5 s each, 0:14 left"),
        (1, 3600, 1.5, "1.5 s each, 1:30:00 left"),
        (128, 0, 10.0, "12.8/s, 0:10 so far"),
    ],
)
def test_progress_says_how_fast_it_goes_and_how_long_it_will_take(
    done: int, left: int, seconds: float, said: str
) -> None:
    assert describe_pace(done, left, seconds) == said


def test_a_result_saved_into_a_folder_s_results_is_vouched_for_and_another_is_not(tmp_path: Path) -> None:
    for folder, vouched in (("results", True), ("elsewhere", False)):
        path = tmp_path / folder / "evaluation.json"
        Screen().save(path, {"data": "photos"})
        assert (artifact.read_sidecar(path) is not None) is vouched
