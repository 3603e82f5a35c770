"""Runs over several numbers of threads and batch sizes: one table a provider, and a page with both as curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.results import Check
from mbdeploy.stages import figures, wording
from mbdeploy.stages.facts import LatencyFact, LatencyFacts
from mbdeploy.stages.inspect_charts import Axis
from mbdeploy.stages.pages import open_template
from mbdeploy.stages.tables import Table

_PLOT = (600.0, 240.0)
_COLUMNS = ("file", "batch", "threads", "ratio", "p50 ms", "p90 ms", "images/s", "n")


def tabulate_runs(runs: Sequence[LatencyFacts]) -> list[Table]:
    """The tables of each provider: those of its only run, or one over all its runs; then the gates."""
    tables: list[Table] = []
    for _, group in groupby(runs, key=lambda run: run.models[0].provider):
        found = list(group)
        tables += [_tabulate_sweep(found)] if len(found) > 1 else figures.tabulate_latency(found[0])
    return [*tables, *figures.tabulate_checks([check for run in runs for check in _label_checks(run, runs)])]


def write_page(path: Path, runs: Sequence[LatencyFacts]) -> Path | None:
    """Write a sweep's page beside the result at ``path``, as .html; None, and nothing written, for single runs."""
    swept = [list(group) for _, group in groupby(runs, key=lambda run: run.models[0].provider)]
    swept = [found for found in swept if len(found) > 1]
    if not swept:
        return None
    page = path.with_suffix(".html")
    artifact.write_bytes(page, render_sweep(swept).encode())
    return page


def render_sweep(swept: Sequence[Sequence[LatencyFacts]]) -> str:
    """One self-contained HTML page: of each provider latency and throughput as curves, and the table."""
    parts = [
        {
            "table": _tabulate_sweep(runs),
            "charts": [
                _draw("p50 of the wall clock, ms", runs, lambda model: (model.wall.p50_ns or 0) / 1e6),
                _draw("images a second", runs, lambda model: model.wall.images_per_s or 0),
            ],
        }
        for runs in swept
    ]
    page: str = open_template("sweep.html").render(parts=parts, cpu=swept[0][0].cpu, size=_PLOT)
    return page


def _tabulate_sweep(runs: Sequence[LatencyFacts]) -> Table:
    first = runs[0].models[0]
    rows = tuple(
        (model.model, str(model.batch_size), str(model.threads), *figures.list_times(model)[:3], *_end(model))
        for run in runs
        for model in run.models
    )
    unsteady = [figures.name_place(run.models[0]) for run in runs if run.checks[0].passed is not True]
    notes = (
        "Ratio: over the first file with the same batch and threads; CPU time with one thread, else wall clock.",
        f"The A/A control did not pass with {'; '.join(unsteady)}." if unsteady else "Every A/A control passed.",
        f"{runs[0].cpu} ({', '.join(runs[0].isa)})",
    )
    return Table(title=f"Latency on {first.provider}", columns=_COLUMNS, rows=rows, notes=notes)


def _end(model: LatencyFact) -> tuple[str, str]:
    speed = model.wall.images_per_s
    return wording.NOT_AVAILABLE if speed is None else f"{speed:.4g}", str(model.wall.n)


def _label_checks(run: LatencyFacts, runs: Sequence[LatencyFacts]) -> Sequence[Check]:
    """The checks of a run, whose subjects say which one it is of where a provider has several."""
    first = run.models[0]
    if sum(other.models[0].provider == first.provider for other in runs) == 1:
        return run.checks
    place = figures.name_place(first).removeprefix(first.provider)
    return [msgspec.structs.replace(check, subject=f"{check.subject}{place}") for check in run.checks]


def _draw(title: str, runs: Sequence[LatencyFacts], read: Callable[[LatencyFact], float]) -> dict[str, Any]:
    """A chart over the longer of the two axes, one curve a model and value of the other, in SVG units."""
    models = [model for run in runs for model in run.models]
    axes: dict[str, Callable[[LatencyFact], int]] = {"threads": lambda m: m.threads, "batch": lambda m: m.batch_size}
    across = max(axes, key=lambda name: len({axes[name](model) for model in models}))
    [other] = set(axes) - {across}
    ticks = sorted({axes[across](model) for model in models})
    places = {value: _PLOT[0] * (index + 0.5) / len(ticks) for index, value in enumerate(ticks)}
    values = [read(model) for model in models if read(model) > 0] or [1.0]
    y = Axis(low=min(values) * 0.8, high=max(values) * 1.25, length=_PLOT[1])
    curves: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for model in models:
        if value := read(model):
            point = (places[axes[across](model)], _PLOT[1] - y.place(value), value)
            curves.setdefault((model.model, axes[other](model)), []).append(point)
    several = len({key for _, key in curves}) > 1
    return {
        "title": title,
        "across": across,
        "x_ticks": [(place, value) for value, place in places.items()],
        "y_ticks": [(_PLOT[1] - place, value) for place, value in y.ticks],
        "curves": [
            (f"{name}, {other} {key}" if several else name, sorted(points)) for (name, key), points in curves.items()
        ],
    }
