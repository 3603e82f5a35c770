"""What the user sees: results on standard output, everything else on standard error."""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mbdeploy.artifact import Provenance, write_json
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.provenance.manifest import vouch_for_result
from mbdeploy.stages.tables import Table, escape_controls, format_bytes, render_json, render_tables

if TYPE_CHECKING:
    from mbdeploy.pipeline import StageRun


class ClosedPipeError(Exception):
    """Whoever read our standard output has gone (as in ``mbdeploy list | head -1``)."""


class Screen:
    """Where words go; ``--quiet``, ``--verbose`` and ``--format`` are set on it as they are read."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.format = "table"
        self._bars: Any = None

    def show(self, tables: Sequence[Table], value: Any = None) -> None:
        """Print a result in the format asked for: ``tables``, or ``value`` as JSON."""
        if self.format == "json":
            self.write(render_json(value))
        else:
            self.write(render_tables(tables, format=self.format, color=has_color()))

    def save(self, path: Path | None, value: Any, plan: Callable[[], Provenance] | None = None) -> None:
        """Keep a raw result as JSON, if somebody said where; ``plan`` is the stage's own, of how it came to it."""
        if path is not None:
            write_json(path, value)
            if path.parent.name == "results":  # of an output folder, which must be able to answer for its files
                vouch_for_result(path, value, plan and plan())
            self.note_written(path)

    def write(self, text: str) -> None:
        """Print a result that is text already."""
        try:
            click.echo(text, color=True)
        except BrokenPipeError as error:
            raise ClosedPipeError from error

    def note(self, text: str) -> None:
        """Say something beside the result, unless ``--quiet``."""
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(escape_controls(text), markup=False, highlight=False, soft_wrap=True)
        else:
            click.echo(escape_controls(text), err=True)

    def note_written(self, path: Path) -> None:
        """Say which file was made."""
        self.note(f"wrote {path} ({format_bytes(path.stat().st_size)})")

    def note_link(self, link: str) -> None:
        """Say where a cluster can be watched."""
        self.note(f"dashboard: {link}")

    def note_stage(self, stage: StageRun) -> None:
        """Say how a stage of a run ended."""
        done = "fresh" if stage.fresh else f"{stage.seconds:.1f} s"
        self.note(f"{stage.name:9} {stage.output} ({done})")

    def fail(self, text: str) -> None:
        """Say in one line why there is no result."""
        click.echo(f"error: {escape_controls(text)}", err=True)

    def fail_with_bug(self, error: BaseException) -> None:
        """Say that we are at fault, with the traceback only if ``--verbose``."""
        if self.verbose:
            click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
        hint = "please report it" if self.verbose else "run it again with --verbose and report what it prints"
        self.fail(f"a bug of mbdeploy ({type(error).__name__}: {error}); {hint}")

    @contextlib.contextmanager
    def progress(self) -> Iterator[Progress]:
        """Yield a Progress that draws on standard error: only on a terminal, and not if ``--quiet``.

        One bar at a time, that of the step at work; it is gone when the work is done.
        """
        if self.quiet or not sys.stderr.isatty():
            yield ignore_progress
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}", markup=False),
        )
        with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
            tasks: dict[str, Any] = {}
            since, first, last = 0.0, 0, 0

            def on_progress(what: str, done: int, total: int) -> None:
                nonlocal since, first, last
                if what not in tasks or done < last:  # a step that begins, or begins again
                    since, first = time.monotonic(), done
                if what not in tasks:
                    for task in (tasks.pop(name) for name in list(tasks)):
                        bars.remove_task(task)
                    tasks[what] = bars.add_task(escape_controls(what), total=total or None, pace="")
                last = done
                pace = describe_pace(done - first, total - done, time.monotonic() - since)
                bars.update(tasks[what], completed=done, total=total or None, pace=pace)

            self._bars = bars
            try:
                yield on_progress
            finally:
                self._bars = None


def describe_pace(done: int, left: int, seconds: float) -> str:
    """How fast a step goes and how long it will take, from what it did in so many seconds: ``12.5/s, 0:09 left``."""
    if seconds <= 0:
        return ""
    elapsed = f"{_name_time(seconds)} so far"
    if done <= 0:
        return elapsed
    rate = done / seconds
    pace = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
    return f"{pace}, {_name_time(left / rate)} left" if left > 0 else f"{pace}, {elapsed}"


def _name_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def has_color() -> bool:
    """Whether standard output is a terminal that may be coloured (https://no-color.org)."""
    import os

    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
