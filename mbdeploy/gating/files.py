"""The files that a check leaves for machines and reviewers, each in a format that they read."""

from __future__ import annotations

from pathlib import Path

from mbdeploy.artifact import write_bytes, write_json
from mbdeploy.errors import refuse_output
from mbdeploy.gating.junit import write_junit
from mbdeploy.gating.report import CheckReport
from mbdeploy.gating.sarif import write_sarif
from mbdeploy.gating.tables import render_markdown


def write_files(
    report: CheckReport,
    *,
    junit: Path | None = None,
    sarif: Path | None = None,
    json: Path | None = None,
    md: Path | None = None,
) -> list[Path]:
    """Write the formats that somebody said a place for; the places, in the order written.

    Raises:
        OutputError: one that cannot be written.
    """
    if json is not None:
        write_json(json, report)
    if junit is not None:
        write_bytes(junit, write_junit(report))
    if sarif is not None:
        write_bytes(sarif, write_sarif(report, root=Path.cwd()))
    if md is not None:
        write_bytes(md, render_markdown(report).encode("utf-8", "backslashreplace"))
    return [path for path in (json, junit, sarif, md) if path is not None]


def append_text(path: Path, text: str) -> None:
    """Add text to a file that others write to as well, such as a job's summary.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise refuse_output(path, error) from error
