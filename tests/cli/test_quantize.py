"""What `quantize` and `run` make of --recipe, --fast and --without."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from mbdeploy.cli import program
from mbdeploy.errors import EXIT_BAD_INPUT, EXIT_OK


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture
def quantize(
    conv_model_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make_conv_model: Callable[..., onnx.ModelProto],
) -> Callable[..., dict[str, Any]]:
    """Run `mbdeploy quantize` with more words on a small model: what it prints as JSON."""
    from mbdeploy.isolate import Outcome, Verdict, ignore_progress
    from mbdeploy.stages import quantize as stage
    from mbdeploy.stages.quantize_job import quantize_model

    def run_here(function: str, request: dict[str, Any], **keywords: Any) -> Outcome:
        return Outcome(verdict=Verdict.OK, value=json.loads(json.dumps(quantize_model(request, ignore_progress))))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "run_step", run_here)
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=images)

    def quantize(*words: str) -> dict[str, Any]:
        result = run("quantize", conv_model_file, "--calibration", "images.npz", "--format", "json", *words)
        assert result.exit_code == EXIT_OK, result.stderr
        printed: dict[str, Any] = json.loads(result.stdout)
        return printed

    return quantize


@pytest.mark.parametrize(
    ("words", "recipe", "method"),
    [
        ((), "accurate", "mse"),
        (("--fast",), "portable", "minmax"),
        (("--recipe", "portable"), "portable", "minmax"),
        (("--fast", "--calibration-method", "percentile"), "portable", "percentile"),
    ],
)
def test_fast_is_the_recipe_portable_and_accurate_is_the_default(
    words: tuple[str, ...], recipe: str, method: str, quantize: Callable[..., dict[str, Any]]
) -> None:
    record = quantize(*words)
    assert (record["recipe"], record["method"]) == (recipe, method)


def test_techniques_left_out_on_the_command_line_are_not_in_the_record(
    quantize: Callable[..., dict[str, Any]],
) -> None:
    assert quantize()["techniques"] == ["refit", "feedback", "bias"]
    assert quantize("--without", "refit", "--without", "bias")["techniques"] == ["feedback"]
    assert quantize("--fast", "--without", "bias")["techniques"] == []


def test_an_unknown_technique_is_refused_with_those_that_there_are(conv_model_file: Path) -> None:
    result = run("quantize", conv_model_file, "--calibration", "x.npz", "--without", "smoothing")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "'smoothing' is not one of 'refit', 'feedback', 'bias'" in result.stderr


def test_the_techniques_on_the_help_page_are_those_of_the_library() -> None:
    import click

    from mbdeploy.quant.recipes import TECHNIQUES

    command = program.get_command(click.Context(program), "quantize")
    assert command is not None
    without = next(parameter for parameter in command.params if parameter.name == "without")
    assert isinstance(without.type, click.Choice)
    assert tuple(without.type.choices) == tuple(TECHNIQUES)


@pytest.mark.parametrize(("words", "recipe"), [((), "accurate"), (("--fast",), "portable")])
def test_run_hands_the_recipe_and_what_is_left_out_to_the_quantizer(
    words: tuple[str, ...], recipe: str, tiny_card: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mbdeploy.stages import quantize as stage

    asked: list[dict[str, Any]] = []
    plan = stage.plan

    def watch(model: Path, **keywords: Any) -> Any:
        asked.append(keywords)
        return plan(model, **keywords)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "plan", watch)
    result = run("run", tiny_card, "--dry-run", "--without", "refit", *words)
    assert result.exit_code == EXIT_OK, result.stderr
    assert all((keywords["recipe"], tuple(keywords["without"])) == (recipe, ("refit",)) for keywords in asked)


@pytest.fixture
def kept_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx_card: Callable[..., Path]) -> str:
    """A card that keeps a layer in float, as seen from another folder than its own, whose model is simplified."""
    card = make_onnx_card(tmp_path / "cards")
    card.write_text(card.read_text().replace('recipe = "portable"', 'recipe = "portable", keep_float = ["fc"]'))
    made = tmp_path / "elsewhere" / "out" / "tiny" / "simplified.onnx"
    made.parent.mkdir(parents=True)
    made.write_bytes((tmp_path / "cards" / "tiny.onnx").read_bytes())
    monkeypatch.chdir(tmp_path / "elsewhere")
    return "../cards/tiny.toml"


@pytest.mark.usefixtures("without_children")
def test_a_card_that_keeps_layers_in_float_is_calibrated_and_quantized_from_any_folder(kept_card: str) -> None:
    result = run("calibrate", kept_card, "--preprocess", "raw", "--format", "json")
    assert result.exit_code == EXIT_OK, result.stderr
    assert json.loads(result.stdout)["data"] == "../cards/photos"
    ranges = "out/tiny/simplified.calibration/calibration.npz"
    result = run("quantize", kept_card, "--preprocess", "raw", "--ranges", ranges, "--format", "json")
    assert result.exit_code == EXIT_OK, result.stderr
    assert json.loads(result.stdout)["float_nodes"] == {"fc": "kept in float, as asked"}


@pytest.mark.usefixtures("without_children")
def test_ranges_that_lack_a_tensor_because_of_what_stays_in_float_are_refused_in_words(kept_card: str) -> None:
    assert run("calibrate", kept_card, "--preprocess", "raw").exit_code == EXIT_OK
    ranges = "out/tiny/simplified.calibration/calibration.npz"
    result = run("quantize", kept_card, "--preprocess", "raw", "--ranges", ranges, "--keep-float", "relu")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "found none of 'c', which carries one only because of --keep-float" in result.stderr
    assert not Path("out/tiny/int8.onnx").exists()
