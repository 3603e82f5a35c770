"""The command line: the group, its table of commands (each loaded when it is named), and the error boundary."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

from mbdeploy.cli.floors import check_floors
from mbdeploy.cli.screen import ClosedPipeError, Screen
from mbdeploy.errors import DISK_FULL, EXIT_BAD_INPUT, EXIT_BUG, MbdeployError, refuse_output

#: Every command and the module that holds it as ``command``, in the order of the help page.
COMMANDS = {
    "run": "mbdeploy.cli.run",
    "export": "mbdeploy.cli.export",
    "simplify": "mbdeploy.cli.simplify",
    "calibrate": "mbdeploy.cli.calibrate",
    "quantize": "mbdeploy.cli.quantize",
    "audit": "mbdeploy.cli.audit",
    "verify": "mbdeploy.cli.verify",
    "bench": "mbdeploy.cli.bench",
    "evaluate": "mbdeploy.cli.evaluate",
    "sweep": "mbdeploy.cli.sweep",
    "search": "mbdeploy.cli.search",
    "report": "mbdeploy.cli.report",
    "history": "mbdeploy.cli.history",
    "check": "mbdeploy.cli.check",
    "init": "mbdeploy.cli.init",
    "bundle": "mbdeploy.cli.bundle",
    "verify-artifacts": "mbdeploy.cli.verify_artifacts",
    "inspect": "mbdeploy.cli.inspect",
    "list": "mbdeploy.cli.list_cards",  # a module called list would hide the builtin here
    "show": "mbdeploy.cli.show",
    "doctor": "mbdeploy.cli.doctor",
    "targets": "mbdeploy.cli.targets",
    "demo": "mbdeploy.cli.demo",
    "explain": "mbdeploy.cli.explain",
}
EXIT_INTERRUPTED = 130
EXIT_CLOSED_PIPE = 141
EXIT_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM or SIGHUP, as an exception: what was begun is put away, as it is after Ctrl-C."""


class Program(click.Group):
    """The group: finds commands in ``COMMANDS`` and turns every ending into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        found = super().resolve_command(ctx, args)
        if found[0] is not None and not {"-h", "--help"} & set(found[2]):
            check_floors(found[0])
        return found

    def main(self, args: Any = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        screen = Screen()
        extra = {**extra, "prog_name": "mbdeploy", "standalone_mode": False, "obj": screen}
        call = super().main
        sys.exit(end_with_code(lambda: call(args, **extra), screen))


def end_with_code(call: Callable[[], Any], screen: Screen) -> int:
    """Run ``call`` and return its exit code; whatever it raises becomes one line on standard error.

    The traceback of a bug is shown only if ``screen.verbose`` was set by then.
    """
    try:
        code = call()
        sys.stdout.flush()
    except MbdeployError as error:
        screen.fail(str(error))
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        screen.fail("interrupted")
        return EXIT_INTERRUPTED
    except Terminated:
        screen.fail("terminated")
        return EXIT_TERMINATED
    except (ClosedPipeError, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads it: let the flush at exit pass
        return EXIT_CLOSED_PIPE
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        screen.fail(error.format_message())
        return EXIT_BAD_INPUT
    except Exception as error:
        if isinstance(error, OSError) and _is_of_the_world(error):
            screen.fail(str(refuse_output(error.filename or "temporary files", error)))
            return EXIT_BAD_INPUT
        screen.fail_with_bug(error)
        return EXIT_BUG
    return int(code or 0)


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mbdeploy.artifact import read_tools

        click.echo(f"mbdeploy {read_tools()['mbdeploy']}")
        ctx.exit()


@click.command(cls=Program, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def program() -> None:
    """Take a light CNN from PyTorch to one INT8 ONNX file, with proof that it
    gives the same answers everywhere.

    Exit codes: 0 fine, 1 a gate failed, 2 usage or bad input, 3 a provider or
    target that is not available here, 4 inconclusive, 5 a bug of mbdeploy.
    """


def _is_of_the_world(error: OSError) -> bool:
    """Whether it is about a file that went away under us, or about room: nobody's bug."""
    return error.filename is not None or error.errno in DISK_FULL or "temporary directory" in str(error)


def _end(number: int, _frame: Any) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one must not disturb the putting away
    raise Terminated


def main() -> NoReturn:
    """Run the program on ``sys.argv`` (the ``mbdeploy`` script)."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP: so do we
            signal.signal(number, _end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal without Unicode is no reason to stop
    program.main()
