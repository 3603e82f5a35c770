"""Limits on foreign files: the same names, defaults and effect on the command line as in the library."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.cli import program

OPENING = ("export", "simplify", "quantize", "audit", "verify", "evaluate", "bundle", "inspect")


def list_limits(name: str) -> dict[str, click.Option]:
    command = program.get_command(click.Context(program), name)
    assert command is not None
    fields = Bounds.__struct_fields__
    return {option.name: option for option in command.params if option.name in fields}  # type: ignore[misc]


@pytest.mark.parametrize("name", OPENING)
def test_every_command_that_opens_a_foreign_file_has_every_limit_with_the_library_s_default(name: str) -> None:
    shown = {key: option.show_default for key, option in list_limits(name).items()}
    assert set(shown) == set(Bounds.__struct_fields__)
    context = click.Context(click.Command(name))
    for key, default in msgspec.structs.asdict(Bounds()).items():
        if default is not None:
            assert list_limits(name)[key].type.convert(str(shown[key]), None, context) == default


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "code"),
    [("100", 2), ("1KB", 2), ("1MB", 0), ("1MiB", 0), ("0", 2), ("-5", 2), ("1XB", 2), ("lots", 2), ("9" * 30, 2)],
)
def test_a_size_has_a_unit_or_none(conv_model_file: Path, text: str, code: int) -> None:
    done = CliRunner().invoke(program, ["inspect", str(conv_model_file), "--max-file-size", text])
    assert done.exit_code == code, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.lower().startswith("error:")]) == (code != 0)


def test_a_limit_ends_with_its_command(conv_model_file: Path) -> None:
    done = CliRunner().invoke(program, ["inspect", str(conv_model_file), "--max-nodes", "2"])
    assert done.exit_code == 2
    assert "raise --max-nodes" in done.stderr
    assert current_bounds() == Bounds()
