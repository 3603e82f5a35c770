"""The group and its error boundary: what every command shares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner, Result

from mbdeploy import errors
from mbdeploy.cli import COMMANDS, EXIT_CLOSED_PIPE, end_with_code, program
from mbdeploy.cli.screen import Screen

HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "numpy", "PIL", "duckdb", "pyarrow")


def run(*args: str) -> Result:
    return CliRunner().invoke(program, list(args))


def end(error: BaseException, *, verbose: bool = False) -> tuple[int, str]:
    """The exit code and standard error of a command that raises ``error``."""

    def fail() -> None:
        raise error

    screen = Screen()
    screen.verbose = verbose
    runner = CliRunner()
    with runner.isolation() as (_, stderr, _both):
        code = end_with_code(fail, screen)
        return code, stderr.getvalue().decode()


def test_no_help_page_loads_torch_onnx_onnxruntime_numpy_or_pillow() -> None:
    code = f"""
import sys
from importlib.abc import MetaPathFinder
class Refuse(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise AssertionError("imported " + name)
sys.meta_path.insert(0, Refuse())
from mbdeploy.cli import COMMANDS, EXIT_CLOSED_PIPE, program
for args in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)]:
    try:
        program.main(args)
    except SystemExit as end:
        assert end.code == 0, (args, end.code)
print(*sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help_page_that_fits_80_columns(name: str) -> None:
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: mbdeploy {name}")
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert all(word in result.stdout for word in ("--quiet", "--verbose"))


def test_the_group_lists_every_command_with_a_summary() -> None:
    shown = run("--help").stdout
    for name in COMMANDS:
        line = next(line for line in shown.splitlines() if line.strip().startswith(f"{name} "))
        assert len(line.split()) > 2, name


def test_an_unknown_command_is_a_usage_error() -> None:
    result = run("qantize")
    assert result.exit_code == errors.EXIT_BAD_INPUT
    assert "error: No such command 'qantize'" in result.stderr
    assert result.stdout == ""


def test_an_unknown_option_is_a_usage_error() -> None:
    result = run("list", "--colour")
    assert result.exit_code == errors.EXIT_BAD_INPUT
    assert result.stderr.startswith("Usage: mbdeploy list")
    assert "error: No such option" in result.stderr


def _all_errors(tree: type[errors.MbdeployError]) -> Iterator[type[errors.MbdeployError]]:
    for branch in tree.__subclasses__():
        yield branch
        yield from _all_errors(branch)


@pytest.mark.parametrize("kind", sorted(_all_errors(errors.MbdeployError), key=lambda kind: kind.__name__))
def test_an_error_of_ours_is_one_line_and_its_own_exit_code(kind: type[errors.MbdeployError]) -> None:
    code, shown = end(kind(where="a.onnx", expected="this", found="that", todo="do so"))
    assert code == kind.exit_code
    assert shown == "error: a.onnx: expected this, found that; do so\n"


def test_a_hostile_name_cannot_steer_the_terminal() -> None:
    name = "\x1b[2J\x1b]0;title\x07\r\n\u202eevil\udcff"
    _, shown = end(errors.ModelError(where=name, expected="a", found="b", todo="c"))
    assert shown == r"error: \x1b[2J\x1b]0;title\x07\x0d\x0a\u202eevil\udcff: expected a, found b; c" + "\n"


def test_ctrl_c_is_exit_130_and_one_word() -> None:
    assert end(KeyboardInterrupt()) == (130, "error: interrupted\n")
    assert end(click.Abort()) == (130, "error: interrupted\n")


def test_a_bug_is_exit_5_and_shows_its_traceback_only_if_verbose() -> None:
    code, shown = end(ZeroDivisionError("one over none"))
    assert code == errors.EXIT_BUG
    assert shown.count("\n") == 1
    assert "bug of mbdeploy (ZeroDivisionError: one over none)" in shown
    code, shown = end(ZeroDivisionError("one over none"), verbose=True)
    assert code == errors.EXIT_BUG
    assert "Traceback (most recent call last)" in shown


def test_the_exit_code_is_what_the_command_returned() -> None:
    assert [end_with_code(lambda code=code: code, Screen()) for code in (None, 0, 1, 4)] == [0, 0, 1, 4]


@pytest.mark.slow
@pytest.mark.parametrize("args", [["list"], ["list", "--format", "json"], ["doctor"]])
def test_a_reader_that_has_left_is_no_bug_and_no_failed_gate(args: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "mbdeploy.cli", *args], stdout=writer, stderr=subprocess.PIPE, check=False
        )
    finally:
        os.close(writer)
    assert done.returncode == EXIT_CLOSED_PIPE
    assert done.stderr == b""


def test_a_terminal_without_unicode_is_no_reason_to_stop() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mbdeploy.cli", "show", "\u6a21\u578b"],
        capture_output=True,
        check=False,
        env={"PYTHONIOENCODING": "latin-1", "PATH": "", "PYTHONUTF8": "1"},
    )
    assert done.returncode == errors.EXIT_BAD_INPUT
    assert done.stderr.startswith(rb"error: \u6a21\u578b: expected a card's name")


@pytest.mark.parametrize("group", ["history", "targets"])
def test_a_group_without_a_command_is_refused_in_one_line(group: str) -> None:
    result = CliRunner().invoke(program, [group])
    assert result.exit_code == errors.EXIT_BAD_INPUT
    assert result.stderr.splitlines()[-1] == "error: Missing command."
