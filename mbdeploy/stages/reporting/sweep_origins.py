"""How each number of a sweep can be derived again: its raw values, and the command that measures them anew."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mbdeploy import artifact
from mbdeploy.calls import Call
from mbdeploy.results import BenchRun
from mbdeploy.stages.reporting.commands import join_words, write_command
from mbdeploy.stages.reporting.origins import COLUMNS
from mbdeploy.stages.reporting.reading import SWEEP, SavedSweep
from mbdeploy.stages.reporting.recalling import recall_bench
from mbdeploy.stages.reporting.sweeps import locate_file
from mbdeploy.stages.tables import Table
from mbdeploy.swept import split_rows


def tabulate_origins(saved: SavedSweep, *, every: bool = True) -> Table:
    """One row for the sweep, one a run, and one a variant for MACs and for quality; without ``every`` those of the
    first variant, as a pattern."""
    digest = artifact.digest_file(saved.folder / SWEEP)[:12]
    first = None if every or not saved.report.rows else saved.report.rows[0].variant
    rows = tuple(
        (what, SWEEP, fields, digest, write_command(call, saved.folder if call.command == "sweep" else None))
        for variant, what, fields, call in list_origins(saved)
        if first is None or variant in ("", first)
    )
    again = join_words(["mbdeploy", "report", str(saved.folder), "--format", "json"])
    notes = [
        f"To derive time, ratio, memory, front and MACs against time again from the raw times: {again}",
        "What a sweep has measured is kept: give --store another folder to measure it again.",
    ]
    if first is not None:
        notes.insert(0, "The same for the other variants; the page lists them all.")
    return Table(title="Where each number is from", columns=COLUMNS, rows=rows, notes=tuple(notes), left=(0, 1, 2, 4))


def list_origins(saved: SavedSweep) -> Iterator[tuple[str, str, str, Call]]:
    """The variant ("" for all), what follows, from which fields, and the call that measures it."""
    asked = saved.report.asked
    if asked.cards:
        options = msgspec.to_builtins(asked)
        yield (
            "",
            "all of it",
            "rows, runs",
            Call(command="sweep", arguments=tuple(options.pop("cards")), options=options),
        )
    seen: set[str] = set()
    for index, (run, group) in enumerate(split_rows(saved.report.rows, saved.report.runs)):
        name = group[0].variant
        paths = tuple(str(locate_file(saved.folder, row)) for row in group)
        what = f"times and memory of {name} on {run.provider}, {run.threads} t"
        yield name, what, f"runs[{index}].series[].{{wall,cpu}}_ns", _describe_run(run, paths)
        if name not in seen:
            seen.add(name)
            yield name, f"MACs of {name}", "rows[].macs", Call(command="inspect", arguments=paths[:1])
            yield name, f"SQNR of {name}", "rows[].sqnr_db", Call(command="verify", arguments=paths)
            if group[0].top1 is not None:
                chosen = {"data": asked.data or "DATA", "limit": asked.limit or group[0].top1.n, "seed": asked.seed}
                call = Call(command="evaluate", arguments=paths, options=chosen)
                yield name, f"top-1 of {name}", "rows[].top1", call


def _describe_run(run: BenchRun, paths: tuple[str, ...]) -> Call:
    """The run's own call, of the files where they lie now."""
    return msgspec.structs.replace(run.call or recall_bench([run]), arguments=paths)
