"""Progress belongs to people: it is drawn on a terminal's standard error, and nowhere else."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from mbdeploy.cli.screen import Screen, has_color
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
