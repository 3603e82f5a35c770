"""Write the pages that the program itself knows best: docs/cli.md and docs/cards.md (``make docs``)."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path

import click
import msgspec

from mbdeploy import card
from mbdeploy.cli import COMMANDS, program

FOLDER = Path(__file__).resolve().parent
_NOTICE = "<!-- Written by docs/generate.py; change the program and run `make docs`. -->"


def write_cli() -> str:
    """Every command's help page, as the program prints it."""
    lines = [
        "# Command line",
        "",
        _NOTICE,
        "",
        "Results go to standard output, progress and errors to standard error. `--format json` is for programs: one",
        "value, alone on standard output. Tables fit 80 columns. There is colour, and progress with its rate and the",
        "time left, only on a terminal; `NO_COLOR` switches colour off, `--quiet` progress and notes, and `--verbose`",
        "shows the traceback of a bug.",
        "",
        "## Completion in the shell",
        "",
        "Commands and options complete with the tab key after one line in the shell's start-up file:",
        "",
        *_show_completion(),
        "## mbdeploy",
        "",
        *_show_help([]),
    ]
    for path in _list_paths():
        lines += [f"## mbdeploy {' '.join(path)}", "", *_show_help(path)]
    return "\n".join(lines).rstrip() + "\n"


def write_cards() -> str:
    """Every key a model card may have, from the types that read it."""
    lines = ["# Model cards", "", _NOTICE, ""]
    lines += [
        "A card is a TOML file in `models/`: what is declared about a network, never what was measured.",
        "`mbdeploy list` shows those that are here, `mbdeploy show CARD` one of them. An unknown key is an error.",
        "Your own lie in `models/` of any folder on `$MBDEPLOY_PATH`, or are given by their path.",
        "",
    ]
    parts = (
        ("The card", card.ModelCard),
        ("[weights]", card.Weights),
        ("[preprocess]", card.Preprocess),
        ("[labels]", card.Labels),
        ("[quantization]", card.Quantization),
        ("[budgets]", card.Budgets),
    )
    for title, part in parts:
        lines += [f"## {title}", "", *_describe_struct(part), ""]
    return "\n".join(lines).rstrip() + "\n"


PAGES = {"cli.md": write_cli, "cards.md": write_cards}


def _show_completion() -> list[str]:
    """The line for each shell in which click completes."""
    from click.shell_completion import BashComplete, FishComplete, ZshComplete

    files = {
        BashComplete: "~/.bashrc",
        ZshComplete: "~/.zshrc",
        FishComplete: "~/.config/fish/completions/mbdeploy.fish",
    }
    lines = ["```sh"]
    for shell, file in files.items():
        word = f"_MBDEPLOY_COMPLETE={shell.name}_source"
        line = f"{word} mbdeploy | source" if shell is FishComplete else f'eval "$({word} mbdeploy)"'
        lines += [f"# {file}", line]
    return [*lines, "```", ""]


def _list_paths() -> list[list[str]]:
    """Every command as its words; a group is followed by its own commands."""
    paths = []
    for name in COMMANDS:
        paths.append([name])
        command = program.get_command(click.Context(program), name)
        paths += [[name, inner] for inner in command.commands] if isinstance(command, click.Group) else []
    return paths


def _show_help(path: list[str]) -> list[str]:
    command: click.Command = program
    context = click.Context(program, info_name="mbdeploy", max_content_width=80, terminal_width=80)
    context.help_option_names = ["-h", "--help"]
    for name in path:
        found = typing.cast("click.Group", command).get_command(context, name)
        assert found is not None
        command = found
        context = click.Context(command, info_name=name, parent=context, max_content_width=80, terminal_width=80)
    return ["```text", command.get_help(context), "```", ""]


def _describe_struct(part: type[msgspec.Struct]) -> list[str]:
    hints = typing.get_type_hints(part)
    fields = [field for field in msgspec.structs.fields(part) if field.name != "path"]  # the reader sets that one
    prose = inspect.cleandoc(part.__doc__ or "").replace("``", "`")
    rows = [f"| `{field.name}` | {_name_type(hints[field.name])} | {_name_default(field)} |" for field in fields]
    return [prose, "", "| key | type | default |", "| --- | --- | --- |", *rows]


def _name_type(hint: typing.Any) -> str:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return ", ".join(_name_type(part) for part in arguments if part is not type(None))
    if origin is tuple:
        return f"list of {_name_type(arguments[0])}"
    if origin is dict:
        return "table"
    if issubclass(hint, msgspec.Struct):
        return f"table, see `[{hint.__name__.lower()}]`"
    return {str: "string", int: "integer", float: "number", bool: "true or false"}[hint]


def _name_default(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is None:
        return "none"
    if isinstance(value, msgspec.Struct):
        return "see below"
    return f"`{msgspec.json.encode(value).decode()}`"


if __name__ == "__main__":
    for name, write in PAGES.items():
        (FOLDER / name).write_text(write(), encoding="utf-8")
