"""Options that several commands share; every name equals the keyword of the library function it goes to."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import click

from mbdeploy.bounds import bounding
from mbdeploy.cli.screen import Screen

_MOST = 65536
F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[F], F]


def take_options(*options: Option[Any]) -> Option[Any]:
    """Several options as one decorator, shown in this order on the help page."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def keep_given(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that were given on the command line: for the others the library's own defaults hold."""
    return {name: value for name, value in keywords.items() if value is not None and value != () and value != {}}


def keep_known(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the keywords that a function has: a plan has none for what changes no result."""
    known = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in known}


def _set_on_screen(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    screen = ctx.find_object(Screen)
    if screen is not None and parameter.name is not None:
        setattr(screen, parameter.name, value)


def _read_pairs(ctx: click.Context, parameter: click.Parameter, values: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in values:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise click.BadParameter(f"expected KEY=VALUE, found {text!r}", ctx, parameter)
        pairs[key] = value
    return pairs


def read_counts(ctx: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...] | None:
    """Numbers between commas, as a click callback."""
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() and 1 <= int(part) <= _MOST for part in parts):
        raise click.BadParameter(f"expected numbers from 1 to {_MOST}, such as 1,2,4, found {text!r}", ctx, parameter)
    return tuple(map(int, parts))


words = take_options(
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=_set_on_screen, help="No progress."),
    click.option(
        "-v",
        "--verbose",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_set_on_screen,
        help="Show the traceback of a bug.",
    ),
)
table_format = click.option(
    "--format",
    type=click.Choice(["table", "md", "json"]),
    default="table",
    show_default=True,
    expose_value=False,
    callback=_set_on_screen,
    help="How to print the result.",
)
output_file = click.option("-o", "--output", type=Path, help="The file to write.")
result_file = click.option("-o", "--output", type=Path, metavar="FILE", help="Save the raw result as JSON there.")
output_folder = click.option("-o", "--output", type=Path, help="The folder to write to.  [default: out/MODEL]")
providers = click.option(
    "--provider",
    "providers",
    metavar="NAME",
    multiple=True,
    show_default="cpu",
    help="Where to run: cpu, openvino, cuda, … or a full …ExecutionProvider. Repeatable.",
)
provider = click.option(
    "--provider",
    "provider",
    metavar="NAME",
    show_default="cpu",
    help="Where to run: cpu, openvino, cuda, … or a full …ExecutionProvider.",
)
sessions = take_options(
    click.option(
        "--provider-option",
        "provider_options",
        metavar="K=V",
        multiple=True,
        callback=_read_pairs,
        help="An option of the execution provider, or a property of OpenVINO. Repeatable.",
    ),
    click.option(
        "--session-config",
        "session_config",
        metavar="K=V",
        multiple=True,
        callback=_read_pairs,
        help="A session configuration entry of ONNX Runtime. Repeatable.",
    ),
)
allow_fallback = click.option(
    "--allow-fallback",
    is_flag=True,
    default=None,
    help="Where a provider is not here, run on the CPU and label it, instead of exit code 3.",
)
require_placement = click.option(
    "--require-placement",
    metavar="RULE",
    multiple=True,
    help="A gate on where nodes ran: 'cuda>=95%', 'no float Conv', 'no Q/DQ left between convolutions'. Repeatable.",
)
threads = click.option("--threads", type=click.IntRange(1, 4096), show_default="1", help="Intra-op threads.")
many_threads = click.option(
    "--threads", metavar="N[,N...]", callback=read_counts, show_default="1", help="Intra-op threads: 1, or 1,2,4."
)
sweeps = take_options(
    many_threads,
    click.option(
        "--batch-size",
        metavar="N[,N...]",
        callback=read_counts,
        show_default="1",
        help="Images an inference: 1, or 1,8.",
    ),
)
preprocess = click.option(
    "--preprocess",
    metavar="NAME|FILE",
    help="How images become input: imagenet, tf, … or a TOML file; needed for files that do not carry it.",
)
seed = click.option("--seed", type=click.IntRange(0, 2**63 - 1), show_default="0", help="Seed of what is drawn.")
trust = click.option("--trust", is_flag=True, default=None, help="Allow Python code that the source names to run.")
warmup = click.option("--warmup", type=click.IntRange(0, 1_000_000), help="Untimed runs.  [default: until steady]")
min_duration = click.option(
    "--min-duration",
    type=click.FloatRange(0.01, 3600),
    show_default="2.0",
    help="Seconds to time each model, or 10,000 rounds.",
)
max_duration = click.option(
    "--max-duration",
    type=click.FloatRange(0, 86400),
    show_default="60.0",
    help="Seconds after which no further process follows.",
)
processes = click.option(
    "--processes",
    type=click.IntRange(1, 1000),
    show_default="5",
    help="Fewest fresh processes to spread the rounds over.",
)
cool_down = click.option(
    "--cool-down", type=click.FloatRange(0, 3600), show_default="0.5", help="Seconds of rest between two processes."
)


class _Data(click.ParamType[str]):
    """A word for images; one that means two things is refused, since the wrong images would still give numbers."""

    name = "data"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from mbdeploy.data import is_manifest

        if is_manifest(value) and Path(value).exists():
            here, rest = f"./{value} is here", f"the images named {value} come with mbdeploy"
            self.fail(f"{here}, and {rest}; write ./{value} for the first, go to another folder for the second")
        return str(value)


DATA = _Data()


class _Size(click.ParamType[int]):
    """A number of bytes, with a unit or without: 500MB, 2GiB, 1000000."""

    name = "size"
    _UNITS: ClassVar[dict[str, int]] = {"": 1, **{f"{u}B": 1000**n for n, u in enumerate(("", "K", "M", "G", "T"))}}
    _UNITS |= {f"{unit}iB": 1024**n for n, unit in enumerate(("", "K", "M", "G", "T")) if n}

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        digits = str(value).rstrip("BKMGTi ")
        unit = str(value)[len(digits) :].strip()
        if not (digits.isascii() and digits.isdecimal() and unit in self._UNITS and 1 <= int(digits) <= 10**18):
            self.fail(f"expected bytes, such as 500MB or 2GiB, found {value!r}", param, ctx)
        return int(digits) * self._UNITS[unit]


def _set_bound(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        ctx.with_resource(bounding(**{parameter.name: value}))


def _limit(name: str, kind: Any, shown: str, text: str) -> Option[Any]:
    return click.option(
        name, type=kind, expose_value=False, callback=_set_bound, metavar="N", show_default=shown, help=text
    )


#: What a file from outside may ask for: mbdeploy.bounds, whose fields have these names.
limits = take_options(
    _limit("--max-file-size", _Size(), "8GiB", "Largest file, with all that it points to."),
    _limit("--max-memory", _Size(), "2GiB", "Largest tensor, all weights, arrays read at once."),
    _limit("--max-nodes", click.IntRange(1, 10**9), "100000", "Most operators, functions expanded."),
    _limit("--max-window", click.IntRange(1, 2**31 - 1), "4096", "Largest kernel, stride, padding or factor."),
    _limit("--max-trips", click.IntRange(1, 2**62), "10000", "Most trips of loops."),
    _limit("--max-time", click.FloatRange(0.1, 86400), "the step's own", "Seconds for a native step."),
)
#: Who shares the work, and where finished parts of it are kept.
workers = take_options(
    click.option("--workers", type=click.IntRange(1, 4096), help="Share the work among so many processes here."),
    click.option("--cluster", metavar="ADDRESS", help="Share it among Dask workers: tcp://HOST:PORT, or local:N."),
)
sharing = take_options(
    workers,
    click.option(
        "--store", type=Path, metavar="FOLDER", help="Where finished parts are kept.  [default: the user's cache]"
    ),
)
