"""A call written as a command line is, for a shell and for the program's own parser, that call again."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbdeploy.calls import _NO_MATTER, Call, describe_call
from mbdeploy.card import Budgets
from mbdeploy.cli import program
from mbdeploy.cli.options import _read_pairs, read_counts
from mbdeploy.cli.screen import Screen
from mbdeploy.stages.reporting.commands import _DENIED, UNTYPED, USUAL, write_command

#: Every function whose calls a report prints, and its command.
FUNCTIONS = {
    "mbdeploy.stages.quantize:quantize": "quantize",
    "mbdeploy.stages.calibrate:calibrate": "calibrate",
    "mbdeploy.stages.verify:verify": "verify",
    "mbdeploy.stages.matrix:verify_matrix": "verify",
    "mbdeploy.stages.bench:bench": "bench",
    "mbdeploy.stages.bench_explain:explain": "bench",
    "mbdeploy.stages.evaluate:evaluate": "evaluate",
    "mbdeploy.sweeping.sweep:sweep": "sweep",
}
COMMANDS = sorted(set(FUNCTIONS.values()))
#: A file's name may hold anything but NUL.
NAMES = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), min_size=1, max_size=12)
NAMES |= st.sampled_from(["-rf", "--seed=1", "$(touch x)", "it's", "a\nb", "\x1b[31m\u202e", "# no", "~", "*", "a b"])


def list_parameters(function: str) -> dict[str, inspect.Parameter]:
    """What a function can be told that may change its result."""
    module, _, name = function.partition(":")
    found = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    left_out = {*_NO_MATTER, "model", "models", "cards", "dry_run"}
    empty = inspect.Parameter.empty
    return {
        name: one
        for name, one in found.items()
        if name not in left_out and (one.default is empty or not callable(one.default))
    }


def find_command(name: str) -> click.Command:
    found = program.get_command(click.Context(program), name)
    assert found is not None
    return found


def split(line: str) -> list[str]:
    """The words that bash hands to the program."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True, cwd="/")
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


def parse(line: str) -> tuple[str, dict[str, Any]]:
    """The command of a line and what its own parser makes of the rest, without running it; what was not given is left
    out."""
    program_name, name, *words = split(line)
    assert program_name == "mbdeploy"
    command = find_command(name)
    group = program.make_context("mbdeploy", [name], obj=Screen())  # click keeps a command's first help option
    params = command.make_context(name, words, parent=group).params
    return name, {key: plain(value) for key, value in params.items() if value is not None and value not in ((), {})}


def plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def draw_values(option: click.Option) -> st.SearchStrategy[Any]:
    """Anything that an option takes."""
    one: st.SearchStrategy[Any] = NAMES
    if option.callback is _read_pairs:
        return st.dictionaries(NAMES.filter(lambda key: "=" not in key), NAMES, min_size=1, max_size=2)
    if option.callback is read_counts:
        return st.lists(st.integers(1, 64), min_size=1, max_size=3)
    if option.is_flag:
        return st.booleans() if option.secondary_opts else st.just(True)
    if isinstance(option.type, click.FloatRange):
        one = st.floats(option.type.min, option.type.max, exclude_min=option.type.min_open, allow_nan=False)
    elif isinstance(option.type, click.IntRange):
        one = st.integers(option.type.min, option.type.max)
    elif isinstance(option.type, click.Choice):
        one = st.sampled_from(list(option.type.choices))
    elif isinstance(option.type, click.Path) or option.type.name == "Path":
        one = NAMES.map(lambda name: str(Path(name)))
    return st.lists(one, min_size=1, max_size=2) if option.multiple else one


@st.composite
def draw_call(draw: st.DrawFn) -> Call:
    name = draw(st.sampled_from(COMMANDS))
    known = {
        option.name or "": option
        for option in reversed(find_command(name).params)  # --fast says --recipe again
        if isinstance(option, click.Option) and option.expose_value and option.name not in _NO_MATTER
    }
    chosen = draw(st.lists(st.sampled_from(sorted(known)), unique=True, max_size=6))
    chosen = list(dict.fromkeys([*chosen, *(["data"] if name == "evaluate" else [])]))
    special: dict[tuple[str, str], st.SearchStrategy[Any]] = {
        ("sweep", "alpha"): st.lists(st.floats(0.01, 99), min_size=1, max_size=3),
        ("sweep", "recipe"): st.lists(st.sampled_from(["portable", "u8u8"]), min_size=1, max_size=2),
    }
    options = {key: draw(special[name, key] if (name, key) in special else draw_values(known[key])) for key in chosen}
    models = draw(
        st.lists(
            NAMES.map(lambda word: str(Path(word))), min_size=1, max_size=1 if name in ("calibrate", "quantize") else 2
        )
    )
    return describe_call(name, {"models": models, **options})


@given(draw_call(), NAMES.map(lambda name: str(Path(name))))
@settings(max_examples=40, deadline=None)
def test_a_command_is_parsed_to_the_call_that_it_was_written_for(call: Call, output: str) -> None:
    line = write_command(call, output)
    assert line.isprintable()
    name, found = parse(line)
    words = found.pop("models", None) or found.pop("cards", None) or [found.pop("model")]
    assert (name, found.pop("output")) == (call.command, output)
    assert [str(Path(word)) for word in words] == [str(Path(word)) for word in call.arguments]
    usual = {key for key, value in call.options.items() if key in USUAL and plain(value) in (USUAL[key], [USUAL[key]])}
    wanted = {key: value for key, value in call.options.items() if key not in usual}
    assert {key: value for key, value in found.items() if value is not False or key in _DENIED} == wanted


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_left_out_of_a_command_is_the_library_s_own_default(function: str) -> None:
    for name, parameter in list_parameters(function).items():
        if name in USUAL:
            assert plain(parameter.default) in (USUAL[name], [USUAL[name]]), name
        elif name != "calibration_method":  # never left out where it is not None
            assert parameter.default in (None, False, (), inspect.Parameter.empty), name


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_only_python_can_say_is_listed(function: str) -> None:
    options = {option.name: option for option in find_command(FUNCTIONS[function]).params}
    parameters = set(list_parameters(function))
    renamed = {"providers", "provider"} if {"providers", "provider"} & set(options) else set()
    assert parameters - set(options) - renamed <= UNTYPED
    two_sided = {name for name in parameters & set(options) if options[name].secondary_opts}
    assert two_sided <= _DENIED


def test_a_bare_word_that_is_a_file_is_never_taken_for_a_card() -> None:
    call = describe_call("bench", {"models": [Path("mobilenet_v2"), Path("a.onnx")], "on_progress": print, "seed": 0})
    assert call == Call(command="bench", arguments=("./mobilenet_v2", "a.onnx"), options={"seed": 0})
    assert write_command(call) == "mbdeploy bench ./mobilenet_v2 a.onnx"


def test_a_name_that_is_no_text_is_its_bytes() -> None:
    call = Call(command="verify", arguments=("./\udcff\u00e9\n'.onnx",))
    assert write_command(call) == r"mbdeploy verify $'./\xffé\x0a\'.onnx'"
    assert os.fsencode(split(write_command(call))[-1]) == b"./\xff\xc3\xa9\n'.onnx"


def test_what_no_option_says_stands_behind_the_command_as_a_comment() -> None:
    told = {"models": [Path("a.onnx")], "kind": "int8", "budgets": Budgets(int8_sqnr_db=3.0), "num_samples": 5}
    line = write_command(describe_call("verify", told))
    assert line.startswith('mbdeploy verify a.onnx --num-samples 5  # and in Python: kind="int8", budgets={')
    assert parse(line) == ("verify", {"models": ["a.onnx"], "num_samples": 5})
