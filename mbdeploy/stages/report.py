"""The report stage: everything that output folders' files say, derived again each time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.results import SCHEMA_VERSION
from mbdeploy.stages.reporting.facts import Report, derive_report
from mbdeploy.stages.reporting.reading import read_saved
from mbdeploy.stages.reporting.tables import (
    SEEDED,
    tabulate_report,
    tabulate_results,
    tabulate_side_by_side,
    tabulate_variants,
)
from mbdeploy.stages.reporting.variants import Variant, list_hosts, list_variants, name_models
from mbdeploy.stages.tables import Table, render_json, render_tables

__all__ = ["SEEDED", "Report", "read_report", "report", "tabulate_report", "tabulate_results", "tabulate_side_by_side"]
FORMATS = ("table", "md", "json", "html")


class Reports(msgspec.Struct, frozen=True, kw_only=True):
    """Several reports, and all their variants side by side."""

    reports: tuple[Report, ...]
    variants: tuple[Variant, ...]
    schema_version: int = SCHEMA_VERSION


def report(*outs: Path, format: str = "table", color: bool = False) -> str:
    """The report on output folders: ``table`` (terminal text, 80 columns), ``md``, ``json`` or ``html``.

    With several folders their files stand side by side first; what was measured on unlike hosts never enters one
    ratio. ``html`` is one page that needs nothing else.

    Raises:
        UsageError: another format, or no folder. DataError: no output folder, or a file in it that cannot be read.
    """
    if format not in FORMATS:
        raise UsageError(
            where=format, expected=f"a format ({', '.join(FORMATS)})", found="another word", todo="choose one"
        )
    if not outs:
        raise UsageError(expected="at least one output folder", found="none", todo="name one")
    saved = [read_saved(out) for out in outs]
    found = [derive_report(one) for one in saved]
    if format == "html":
        from mbdeploy.stages.reporting.page import render_page

        return render_page(found, saved)
    names = name_models(found, outs)
    if format == "json":
        return render_json(found[0] if len(found) == 1 else _join(found, names))
    first = render_tables(_tabulate_several(found, names), format=format, color=color) if len(found) > 1 else ""
    parts = [
        (f"# {name}\n\n" if format == "md" else "") + render_tables(tabulate_report(one), format=format, color=color)
        for name, one in zip(names, found, strict=True)
    ]
    return ("\n\n" if format == "md" else "\n\n\n").join([first, *parts] if first else parts)


def read_report(out: Path) -> Report:
    """Everything that the sidecars and ``results/*.json`` of a folder say; a pure function of these files.

    Raises:
        DataError: no output folder, or a file in it that cannot be read.
    """
    return derive_report(read_saved(out))


def _join(found: Sequence[Report], names: Sequence[str]) -> Reports:
    return Reports(reports=tuple(found), variants=tuple(list_variants(found, names)))


def _tabulate_several(found: Sequence[Report], names: Sequence[str]) -> list[Table]:
    return tabulate_variants(list_variants(found, names), list_hosts(found))
