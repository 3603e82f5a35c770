"""Where ``mbdeploy report`` puts what it says: text on standard output, a page beside what it is on."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mbdeploy.cli import program
from mbdeploy.errors import EXIT_BAD_INPUT, EXIT_OK


@pytest.fixture(autouse=True)
def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A report that only says what it was asked."""
    from mbdeploy.stages import report as stage

    def report(*outs: Path, format: str, color: bool) -> str:
        return f"{format} of {', '.join(out.name for out in outs)}"

    monkeypatch.setattr(stage, "report", report)
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()


def run(*args: str) -> Result:
    return CliRunner().invoke(program, ["report", *args])


def test_text_goes_to_standard_output_alone() -> None:
    result = run("a", "b", "--format", "md")
    assert (result.exit_code, result.stderr) == (EXIT_OK, "")
    assert result.stdout.startswith("md of a, b")


@pytest.mark.parametrize(
    ("args", "file"),
    [
        (("a", "--format", "html"), "a/report.html"),
        (("a", "b", "--format", "html"), "report.html"),
        (("a", "--format", "html", "-o", "b/page.html"), "b/page.html"),
        (("a", "-o", "b/report.txt"), "b/report.txt"),
    ],
)
def test_a_page_or_a_file_asked_for_is_written_whole_and_named_on_standard_error(
    args: tuple[str, ...], file: str
) -> None:
    result = run(*args)
    assert result.exit_code == EXIT_OK
    assert result.stdout == ""
    assert result.stderr.startswith(f"wrote {file}")
    assert Path(file).read_text().endswith(" of a, b\n" if "b" in args else " of a\n")


def test_a_folder_or_a_format_that_is_not_there_is_bad_input() -> None:
    assert run().exit_code == EXIT_BAD_INPUT
    result = run("a", "--format", "pdf")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "'pdf' is not one of" in result.stderr
