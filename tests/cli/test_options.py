"""Options and library keywords are the same words with the same defaults."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mbdeploy.cli import program
from mbdeploy.cli.demo import command as demo_command
from mbdeploy.cli.options import keep_given
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_BAD_INPUT

#: Command -> the public function it calls, and the function's parameters that a command line cannot give.
CALLS = {
    "run": ("mbdeploy.pipeline:run", {"on_stage"}),
    "export": ("mbdeploy.stages.export:export", set()),
    "simplify": ("mbdeploy.stages.simplify:simplify", set()),
    "calibrate": ("mbdeploy.stages.calibrate:calibrate", set()),
    "quantize": ("mbdeploy.tradeoff:quantize_within", set()),
    "audit": ("mbdeploy.stages.audit:audit", set()),
    "verify": ("mbdeploy.stages.verify:verify", {"kind"}),
    "bench": ("mbdeploy.stages.bench:bench", set()),
    "evaluate": ("mbdeploy.stages.evaluate:evaluate", {"on_link"}),
    "sweep": ("mbdeploy.sweeping.sweep:sweep", {"on_link", "on_plan"}),
    "search": ("mbdeploy.searching.search:search", {"on_link", "on_plan"}),
    "bundle": ("mbdeploy.stages.bundle:bundle", set()),
    "history add": ("mbdeploy.remembering.recording:remember", set()),
    "history show": ("mbdeploy.remembering.history:history", set()),
    "verify-artifacts": ("mbdeploy.provenance.checking:verify_artifacts", set()),
}
NOT_TYPED = {"on_progress", "limits"}
#: Commands that save the function's result themselves: --output is theirs alone.
SAVERS = {"verify", "bench", "evaluate"}
#: Options that choose another function than the command's own.
CHOOSERS = {
    "bench": {"instructions", "tune", "explain", "scenario", "preset", "target_qps", "target_latency"},
    "quantize": {"precision", "workers", "cluster"},
    "verify": {"matrix", "reduce_to"},
    "history show": {"html"},
}
#: What a command cannot be called without, beside its argument.
REQUIRED = {"evaluate": ["--data", "d"], "search": ["--target-latency", "d"]}
#: Defaults that the help page says in other words than Python does.
SAID_OTHERWISE = {
    "trust",
    "strict",
    "dry_run",
    "layers",
    "opset",
    "repair",
    "allow_fallback",
    "all_variants",
    "hard",
    "refine",
    "one_by_one",
}


def load_call(name: str) -> tuple[Callable[..., Any], set[str]]:
    place, left_out = CALLS[name]
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function), left_out


def find_command(name: str) -> click.Command:
    """A command, or with two words one of a group."""
    found: click.Command = program
    for word in name.split():
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None
        found = inner
    return found


def list_parameters(name: str) -> dict[str, click.Parameter]:
    command = find_command(name)
    parameters = [parameter for parameter in command.params if parameter.expose_value]
    return {parameter.name or "": parameter for parameter in reversed(parameters)}  # --fast says --recipe again


@pytest.mark.parametrize("name", CALLS)
def test_option_names_are_the_keywords_of_the_function_called(name: str) -> None:
    function, left_out = load_call(name)
    keywords = set(inspect.signature(function).parameters)
    own = ({"output"} if name in SAVERS else set()) | CHOOSERS.get(name, set())
    assert set(list_parameters(name)) - own == keywords - left_out - NOT_TYPED


@pytest.mark.parametrize("name", CALLS)
def test_a_default_on_the_help_page_is_the_library_s(name: str) -> None:
    function, _ = load_call(name)
    parameters = inspect.signature(function).parameters
    for option in list_parameters(name).values():
        if not isinstance(option, click.Option) or option.name not in set(parameters) - SAID_OTHERWISE:
            continue
        said = option.show_default
        real = parameters[option.name or ""].default
        if said is False or said is None:
            assert real in (None, (), inspect.Parameter.empty), f"{option.name}: {real}"
        elif name != "run" or real is not None:  # a card's word comes first there
            assert said == str(real[0] if isinstance(real, tuple) else real), option.name


@pytest.mark.parametrize("name", CALLS)
def test_what_is_not_given_is_left_to_the_library(name: str) -> None:
    group = program.make_context("mbdeploy", [name], obj=Screen())  # click keeps a command's first help option
    command = find_command(name)
    args = ["word", *REQUIRED.get(name, [])]
    params = command.make_context(name, args, parent=group).params
    options = {option.name: params[option.name] for option in command.params if option.name in params}
    given = keep_given({key: value for key, value in options.items() if isinstance(key, str)})
    assert set(given.values()) <= {"word", ("word",), "d"}


def test_recipes_and_methods_on_the_help_page_are_those_of_the_library() -> None:
    from mbdeploy.quant.recipes import RECIPES
    from mbdeploy.stages.material import METHODS

    parameters = list_parameters("quantize")
    recipe, method = parameters["recipe"], parameters["calibration_method"]
    assert isinstance(recipe, click.Option) and isinstance(method.type, click.Choice)
    assert (recipe.help or "").rstrip(".").replace(" or ", ", ").split(", ") == list(RECIPES)
    assert tuple(method.type.choices) == METHODS


def test_the_opset_on_the_help_page_is_the_library_s() -> None:
    from mbdeploy.stages.export_plan import DEFAULT_OPSET

    opset = list_parameters("export")["opset"]
    assert isinstance(opset, click.Option)
    assert opset.show_default == str(DEFAULT_OPSET)


def test_stages_that_can_be_forced_are_those_of_the_pipeline() -> None:
    from mbdeploy.pipeline import STAGES

    force = list_parameters("run")["force"]
    assert isinstance(force.type, click.Choice)
    assert tuple(force.type.choices) == STAGES


def test_the_demo_shows_a_card_with_real_weights() -> None:
    from mbdeploy.card import load_card

    card = next(parameter for parameter in demo_command.params if parameter.name == "card")
    assert load_card(str(card.default)).trained


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["quantize", "a.onnx"], "needs --calibration"),
        (["bench", "a.onnx", "--provider-option", "novalue"], "expected KEY=VALUE, found 'novalue'"),
        (["export", "a.b:c", "--input-shape", "224"], "expected three numbers C,H,W, found '224'"),
        (["quantize", "a.onnx", "--calibration-method", "magic"], "'magic' is not one of"),
        (["verify", "a.onnx", "--threads", "0"], "0 is not in the range"),
        (["run", "efficientnet_lite0", "--force", "everything"], "'everything' is not one of"),
    ],
)
def test_a_wrong_option_is_refused_by_name(args: list[str], message: str) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(program, args)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("command", "option"),
    [("quantize", "--calibration"), ("bench", "--inputs"), ("evaluate", "--data"), ("export", "--golden-data")],
)
def test_a_word_that_is_a_manifest_and_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, option: str
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(program, [command, "x.onnx", option, "photos"])
    assert result.exit_code == EXIT_BAD_INPUT
    assert "write ./photos for the first" in result.stderr
    assert list(tmp_path.iterdir()) == [tmp_path / "photos"]
