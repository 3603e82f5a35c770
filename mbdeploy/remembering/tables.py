"""A history as tables: one a model, class of hosts, provider and threads; runs over time in each line."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.remembering.history import History, Line, Point
from mbdeploy.remembering.measurement import UNKNOWN_HOST
from mbdeploy.remembering.metrics import find_metric, rank_metric
from mbdeploy.remembering.recording import Recording
from mbdeploy.stages import wording
from mbdeploy.stages.reporting.tables import name_host
from mbdeploy.stages.tables import Table

COLUMNS = ("what", "when, UTC", "file", "value", "interval", "change")
_NOTES = (
    "change: against the run before, as a share of it, or in points or dB. ~: the two intervals overlap. +: dated when "
    "it was added, for want of a date in the result. file: the first digits of its sha256."
)


def tabulate_history(found: History) -> list[Table]:
    """Each place on its own, then the classes of hosts by their letters; the last words are that this is no gate."""
    tables = [
        Table(title=name_group(group[0], found), columns=COLUMNS, rows=tuple(list_rows(group)), left=(0, 1, 2))
        for group in group_lines(found)
    ]
    rows = tuple((name_class(host, found), host) for host in found.host_classes if host != UNKNOWN_HOST)
    notes = (_NOTES, "Runs of unlike hosts are never in one line.", found.note)
    return [*tables, Table(title="Hosts", columns=("host", "what it is"), rows=rows, notes=notes, left=(0, 1))]


def tabulate_recording(done: Recording) -> list[Table]:
    """What was remembered, and what was known."""
    rows = tuple(
        (one.file, _name_models(one.models), str(one.rows), one.sha256[:12], "known" if one.known else "added")
        for one in done.results
    )
    columns = ("result", "models", "numbers", "sha256", "")
    note = f"`mbdeploy history show --folder {done.folder}` shows them over time."
    return [Table(title=f"History in {done.folder}", columns=columns, rows=rows, notes=(note,), left=(0, 1, 3, 4))]


def group_lines(found: History) -> list[list[Line]]:
    """The lines of each model, class of hosts, provider, threads and batch."""
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in found.lines:
        place = (line.model, line.host_class, line.provider, line.threads, line.batch_size)
        groups.setdefault(place, []).append(line)
    return [
        sorted(group, key=lambda line: (line.variant, line.recipe, rank_metric(line.metric), line.basis))
        for group in groups.values()
    ]


def name_group(line: Line, found: History) -> str:
    """Which model, where and how."""
    threads = "" if line.threads is None else f", {line.threads} thread{'s' if line.threads != 1 else ''}"
    batch = "" if line.batch_size in (None, 1) else f", batch {line.batch_size}"
    return f"{line.model} on {line.provider}{threads}{batch}, {name_class(line.host_class, found)}"


def name_class(host_class: str, found: History) -> str:
    """A letter for each class of hosts."""
    if host_class == UNKNOWN_HOST:
        return UNKNOWN_HOST
    known = [one for one in found.host_classes if one != UNKNOWN_HOST]
    return f"host {name_host(known.index(host_class))}"


def name_line(line: Line) -> str:
    """Which file, and which number of it."""
    recipe = f" ({line.recipe})" if line.recipe and line.recipe != line.variant else ""
    basis = f": {line.basis}" if line.basis else ""
    return f"{line.variant}{recipe}, {find_metric(line.metric).title}{basis}"


def list_rows(lines: Sequence[Line], *, repeat: bool = False) -> list[tuple[str, ...]]:
    """One row a run; a line says what it is in its first row only, unless ``repeat``."""
    return [
        (name_line(line) if repeat or not index else "", *_show(line, point))
        for line in lines
        for index, point in enumerate(line.points)
    ]


def _name_models(models: Sequence[str]) -> str:
    return ", ".join(models) if len(models) < 3 else f"{len(models)} models"


def _show(line: Line, point: Point) -> tuple[str, ...]:
    metric = find_metric(line.metric)
    when = point.when_utc[:16].replace("T", " ") + ("+" if point.dated == "added" else "")
    low, high = point.low, point.high
    interval = "" if low is None or high is None else f"[{_scale(low, line.metric)}, {_scale(high, line.metric)}]"
    if point.change is None:
        change = ""
    elif metric.relative:
        change = f"{100 * point.change:+.1f} %"
    else:
        change = f"{metric.factor * point.change:+.{metric.decimals}f}"
    return when, point.sha256[:8], _scale(point.value, line.metric), interval, change + " ~" * bool(point.overlaps)


def _scale(value: float, name: str) -> str:
    metric = find_metric(name)
    if value != value:
        return wording.NOT_AVAILABLE
    return "equal" if value == float("inf") else f"{metric.factor * value:.{metric.decimals}f}"
