"""Limits on foreign files: the same names, defaults and effect on the command line as in the library."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from mbdeploy.bounds import Bounds, current_bounds
from mbdeploy.cli import program

#: The commands that open no model, array or archive of anybody's, and what they open in their place.
OPENING_NONE = {
    "history add": "results, which are JSON",
    "history show": "files of its own folder, in a child under limits",
    "verify-artifacts": "bytes to hash, which nobody parses",
    "list": "cards",
    "show": "cards",
    "doctor": "nothing",
    "targets list": "nothing",
    "targets worker": "nothing: limits come with the work",
    "targets setup": "packages",
    "explain": "nothing",
}


def list_commands() -> dict[str, click.Command]:
    """Every command that does something, by the words that call it."""
    context = click.Context(program)
    found = {name: program.get_command(context, name) for name in program.list_commands(context)}
    flat: dict[str, click.Command] = {}
    for name, command in found.items():
        assert command is not None
        parts = command.commands.items() if isinstance(command, click.Group) else ()
        flat |= {f"{name} {word}": part for word, part in parts} or {name: command}
    return flat


COMMANDS = list_commands()
OPENING = sorted(COMMANDS.keys() - OPENING_NONE.keys())


def list_limits(name: str) -> dict[str, click.Option]:
    fields = Bounds.__struct_fields__
    return {option.name: option for option in COMMANDS[name].params if option.name in fields}  # type: ignore[misc]


def test_the_commands_without_limits_are_those_that_open_nothing() -> None:
    assert OPENING_NONE.keys() <= COMMANDS.keys()
    assert {name for name in COMMANDS if not list_limits(name)} == OPENING_NONE.keys()


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


@pytest.mark.parametrize(
    ("command", "more"),
    [
        ("run", []),
        ("demo", []),
        ("calibrate", ["--calibration", "./photos", "--preprocess", "imagenet"]),
        pytest.param("init", ["--update-budgets"], marks=pytest.mark.slow),
        pytest.param("sweep", ["--recipe", "portable", "--store", "kept"], marks=pytest.mark.slow),
    ],
)
def test_the_limit_that_a_cards_file_is_refused_by_is_an_option_of_the_command(
    make_onnx_card: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    more: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    card = make_onnx_card(tmp_path)
    source = card.with_suffix(".onnx") if command == "calibrate" else card
    done = CliRunner().invoke(program, [command, str(source), *more, "--max-nodes", "1"])
    assert done.exit_code == 2, done.stderr
    assert "raise --max-nodes" in done.stderr
    assert current_bounds() == Bounds()
