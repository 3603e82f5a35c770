"""How each number of a sweep can be derived again: its raw values, and the command that measures them anew."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from mbdeploy import artifact
from mbdeploy.results import BenchRun
from mbdeploy.stages.reporting.origins import repeat_provider
from mbdeploy.stages.reporting.reading import SWEEP, SavedSweep
from mbdeploy.stages.reporting.sweeps import locate_file
from mbdeploy.stages.tables import Table
from mbdeploy.swept import Row, split_rows

#: What ``mbdeploy sweep`` was asked, and the option that asks it.
_OPTIONS = {
    "alpha": "--alpha",
    "rho": "--rho",
    "recipe": "--recipe",
    "threads": "--threads",
    "data": "--data",
    "limit": "--limit",
    "seed": "--seed",
    "min_duration": "--min-duration",
    "processes": "--processes",
}


def tabulate_origins(saved: SavedSweep, *, every: bool = True) -> Table:
    """One row for the sweep, one a run, and one a variant for MACs and for quality; without ``every`` those of the
    first variant, as a pattern."""
    digest = artifact.digest_file(saved.folder / SWEEP)[:12]
    first = None if every or not saved.report.rows else saved.report.rows[0].variant
    rows = tuple(
        (what, SWEEP, fields, digest, shlex.join(["mbdeploy", *words]))
        for variant, what, fields, words in _list_origins(saved)
        if first is None or variant in ("", first)
    )
    again = shlex.join(["mbdeploy", "report", str(saved.folder), "--format", "json"])
    notes = [
        f"To derive time, ratio, memory, front and MACs against time again from the raw times: {again}",
        "What a sweep has measured is kept: give --store another folder to measure it again.",
    ]
    if first is not None:
        notes.insert(0, "The same for the other variants; the page lists them all.")
    return Table(
        title="Where each number is from",
        columns=("what", "file", "fields", "sha256", "to measure it again"),
        rows=rows,
        notes=tuple(notes),
        left=(0, 1, 2, 4),
    )


def _list_origins(saved: SavedSweep) -> Iterator[tuple[str, str, str, list[str]]]:
    """The variant ("" for all), what follows, from which fields, and the command."""
    if saved.report.asked.cards:
        yield "", "all of it", "rows, runs", [*_describe_sweep(saved), "-o", str(saved.folder)]
    seen: set[str] = set()
    for index, (run, group) in enumerate(split_rows(saved.report.rows, saved.report.runs)):
        name = group[0].variant
        paths = [str(locate_file(saved.folder, row)) for row in group]
        what = f"times and memory of {name} on {run.provider}, {run.threads} t"
        yield name, what, f"runs[{index}].series[].{{wall,cpu}}_ns", _describe_run(run, paths)
        if name not in seen:
            seen.add(name)
            yield name, f"MACs of {name}", "rows[].macs", ["inspect", paths[0]]
            yield name, f"SQNR of {name}", "rows[].sqnr_db", ["verify", *paths]
            yield from _describe_accuracy(saved, group, paths)


def _describe_accuracy(
    saved: SavedSweep, group: list[Row], paths: list[str]
) -> Iterator[tuple[str, str, str, list[str]]]:
    asked, top1 = saved.report.asked, group[0].top1
    if top1 is not None:
        words = ["--data", asked.data or "DATA", "--limit", str(top1.n)]
        words += ["--seed", str(asked.seed)]
        yield group[0].variant, f"top-1 of {group[0].variant}", "rows[].top1", ["evaluate", *paths, *words]


def _describe_run(run: BenchRun, paths: list[str]) -> list[str]:
    words = ["bench", *paths, *repeat_provider([run.provider]), "--threads", str(run.threads)]
    words += ["--inputs", run.inputs, "--min-duration", f"{run.min_duration_s:g}"]
    return [*words, "--processes", str(run.processes), "--seed", str(run.seed)]


def _describe_sweep(saved: SavedSweep) -> list[str]:
    asked = saved.report.asked
    words = ["sweep", *asked.cards, *repeat_provider(asked.providers)]
    for name, option in _OPTIONS.items():
        value = getattr(asked, name)
        if value is not None and value != ():
            words += [option, ",".join(map(_show, value)) if isinstance(value, tuple) else _show(value)]
    return words


def _show(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
