"""The report stage: everything that output folders' files say, derived again each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.results import SCHEMA_VERSION
from mbdeploy.stages.reporting.facts import Report, derive_report
from mbdeploy.stages.reporting.reading import Saved, SavedSweep, has_models, read_saved, read_sweep
from mbdeploy.stages.reporting.sweep_tables import tabulate_swept
from mbdeploy.stages.reporting.sweeps import SweepFacts, derive_sweep
from mbdeploy.stages.reporting.tables import (
    SEEDED,
    tabulate_report,
    tabulate_results,
    tabulate_side_by_side,
    tabulate_variants,
)
from mbdeploy.stages.reporting.variants import Variant, list_hosts, list_variants, name_models, tell_apart
from mbdeploy.stages.tables import Table, render_json, render_tables

__all__ = ["SEEDED", "Report", "read_report", "report", "tabulate_report", "tabulate_results", "tabulate_side_by_side"]
FORMATS = ("table", "md", "json", "html")


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """Several reports, and all their variants side by side; then sweeps."""

    reports: tuple[Report, ...]
    variants: tuple[Variant, ...]
    sweeps: tuple[SweepFacts, ...] = ()
    schema_version: int = SCHEMA_VERSION


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in output folders, and what follows from it: ``reports[i]`` from ``saved[i]``, and so with sweeps."""

    saved: tuple[Saved, ...]
    reports: tuple[Report, ...]
    saved_sweeps: tuple[SavedSweep, ...]
    sweeps: tuple[SweepFacts, ...]


def report(*outs: Path, format: str = "table", color: bool = False) -> str:
    """The report on output folders: ``table`` (terminal text, 80 columns), ``md``, ``json`` or ``html``.

    With several folders their files stand side by side first; what was measured on unlike hosts never enters one
    ratio. A sweep's folder is shown after those of single models. ``html`` is one page that needs nothing else.

    Raises:
        UsageError: another format, or no folder. DataError: no output folder, or a file in it that cannot be read.
    """
    if format not in FORMATS:
        raise UsageError(
            where=format, expected=f"a format ({', '.join(FORMATS)})", found="another word", todo="choose one"
        )
    if not outs:
        raise UsageError(expected="at least one output folder", found="none", todo="name one")
    return render_report(find_reports(outs), format=format, color=color)


def find_reports(outs: Sequence[Path]) -> Found:
    """Everything that the folders' files say; a pure function of these files.

    Raises:
        DataError: no output folder, or a file in it that cannot be read.
    """
    sweeps = {out: found for out in outs if (found := read_sweep(out)) is not None}
    saved = tuple(read_saved(out) for out in outs if out not in sweeps or has_models(out))
    return Found(
        saved=saved,
        reports=tuple(derive_report(one) for one in saved),
        saved_sweeps=tuple(sweeps.values()),
        sweeps=tuple(derive_sweep(one) for one in sweeps.values()),
    )


def render_report(found: Found, *, format: str = "table", color: bool = False) -> str:
    """What was found, in one of ``FORMATS``."""
    if format == "html":
        from mbdeploy.stages.reporting.page import render_page

        return render_page(found.reports, found.saved, found.sweeps, found.saved_sweeps)
    names = name_models(found.reports, [one.folder for one in found.saved])
    if format == "json":
        every = [*found.reports, *found.sweeps]
        return render_json(every[0] if len(every) == 1 else _join(found, names))
    several = len(found.reports) > 1
    first = render_tables(_tabulate_several(found.reports, names), format=format, color=color) if several else ""
    shown = [(name, tabulate_report(one)) for name, one in zip(names, found.reports, strict=True)]
    swept = tell_apart([one.sweep for one in found.sweeps], [one.folder for one in found.saved_sweeps])
    shown += [
        (name, tabulate_swept(facts, one))
        for name, facts, one in zip(swept, found.sweeps, found.saved_sweeps, strict=True)
    ]
    parts = [
        (f"# {name}\n\n" if format == "md" else "") + render_tables(tables, format=format, color=color)
        for name, tables in shown
    ]
    return ("\n\n" if format == "md" else "\n\n\n").join([first, *parts] if first else parts)


def read_report(out: Path) -> Report:
    """Everything that the sidecars and ``results/*.json`` of a folder say; a pure function of these files.

    Raises:
        DataError: no output folder, or a file in it that cannot be read.
    """
    return derive_report(read_saved(out))


def _join(found: Found, names: Sequence[str]) -> Reports:
    variants = tuple(list_variants(found.reports, names))
    return Reports(reports=found.reports, variants=variants, sweeps=found.sweeps)


def _tabulate_several(found: Sequence[Report], names: Sequence[str]) -> list[Table]:
    return tabulate_variants(list_variants(found, names), list_hosts(found))
