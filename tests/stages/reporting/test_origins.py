"""Every command that a report prints measures the number again: with the parameters that it was measured with."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mbdeploy.artifact import digest_file
from mbdeploy.calls import _NO_MATTER
from mbdeploy.cli import program
from mbdeploy.cli.screen import Screen
from mbdeploy.results import EvalReport, ParityReport, decode_result
from mbdeploy.stages import simplify
from mbdeploy.stages.reporting.origins import tabulate_origins
from mbdeploy.stages.reporting.reading import read_saved

pytestmark = pytest.mark.slow
#: What makes the numbers of a report, and how a report calls the file that they are saved in.
MAKERS = {
    "quantize": "int8.onnx.json",
    "verify": "results/parity.json",
    "matrix:verify_matrix": "results/matrix.json",
    "bench": "results/bench.json",
    "bench_explain:explain": "results/explain.json",
    "evaluate": "results/evaluation.json",
    "calibrate": "simplified.calibration/calibration.npz",
}
Told = dict[str, dict[str, Any]]


class StoppedError(Exception):
    """In place of measuring."""


def find_maker(word: str) -> tuple[Any, str]:
    """The module and the name of a maker."""
    module, _, name = word.partition(":")
    return importlib.import_module(f"mbdeploy.stages.{module}"), name or module


def settle(function: Callable[..., Any], args: Any, keywords: Any) -> dict[str, Any]:
    """All that a function is told, defaults included, but for what cannot change a result; paths as text."""
    bound = inspect.signature(function).bind(*args, **keywords)
    bound.apply_defaults()
    return {
        name: plain(value)
        for name, value in bound.arguments.items()
        if name not in _NO_MATTER and not callable(value) and value is not False
    }


def plain(value: Any) -> Any:
    if isinstance(value, tuple | list) and len(value) == 1:
        return plain(value[0])
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def watch(patch: pytest.MonkeyPatch, told: Told, *, stop: bool) -> None:
    """Note what each maker is told first; with ``stop`` it does nothing else."""
    for word, file in MAKERS.items():
        module, name = find_maker(word)
        real = getattr(module, name)

        def noting(*args: Any, real: Any = real, file: str = file, **keywords: Any) -> Any:
            told.setdefault(file, settle(real, args, keywords))
            if stop:
                raise StoppedError
            return real(*args, **keywords)

        patch.setattr(module, name, functools.wraps(real)(noting))


def call(*words: object) -> None:
    """Run the program in this process."""
    command, *rest = map(str, words)
    group = program.make_context("mbdeploy", [command], obj=Screen())  # click keeps a command's first help option
    found = program.get_command(group, command)
    assert found is not None
    found.main(rest, prog_name=command, standalone_mode=False, parent=group)


def split(line: str) -> list[str]:
    """The words after ``mbdeploy``, as bash reads them."""
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[1:-1]]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder that everything below happens in."""
    before = Path.cwd()
    here = tmp_path_factory.mktemp("origins")
    os.chdir(here)
    yield here
    os.chdir(before)


@pytest.fixture(scope="module")
def made(place: Path, make_onnx_card: Callable[..., Path]) -> tuple[Path, Told]:
    """The folder of a run with every part of a report, made with unusual options, and what each maker was told."""
    make_onnx_card(place, more="[budgets]\nint8_sqnr_db = 1.5\nint8_top1_agreement = 0.0\n")
    folder, told = Path("it's $(here)\n<b>"), {}
    labels = [f"photos/photo_{k}.png,{k}" for k in range(3)]
    (place / "-la bels;.csv").write_text("\n".join(["file,label", *labels]) + "\n")
    quick = ("--min-duration", "0.02")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1]))
        patch.setattr(simplify, "_ONNXSIM_STEP", "wrong_onnxsim:keep")  # the real one takes as long as all else
        watch(patch, told, stop=False)
        call(
            *("run", "tiny.toml", "-o", folder, "--without", "bias", "--keep-float", "f?", "--seed", 3, *quick),
            *("--calibration-method", "percentile", "--num-calibration-samples", 2),
            *("--until", "bench"),
        )
        models = (folder / "simplified.onnx", folder / "int8.onnx")
        wide = ("--session-config", "session.x64quantprecision=1", "--preprocess", "imagenet")
        call(
            *("verify", models[1], "--matrix", "--budgets", "tiny.toml", "--num-samples", 2, *wide),
            *("-o", folder / MAKERS["matrix:verify_matrix"]),
        )
        call(
            *("bench", *models, "--explain", "--inputs", "./photos", "--min-pairs", 3, "--warmup", 1, *quick, *wide),
            *("--seed", 4, "-o", folder / MAKERS["bench_explain:explain"]),
        )
        call(
            *("evaluate", *models, "--data=-la bels;.csv", "--limit", 2, "--seed", 5, "--no-background", *wide),
            *("-o", folder / MAKERS["evaluate"]),
        )
        call(
            *("calibrate", models[0], "--calibration", "./photos", "--num-calibration-samples", 2, "--seed", 6),
            *("--calibration-method", "entropy", "--preprocess", "imagenet"),
        )
    return place / folder, told


def list_commands(folder: Path) -> dict[str, list[str]]:
    """The words of each file's command, read from the page that ``run`` would leave now."""
    saved = read_saved(folder.relative_to(Path.cwd()))
    return {row[1]: split(row[4]) for row in tabulate_origins(saved).rows}


@pytest.mark.sweep
def test_every_command_of_a_report_tells_its_maker_what_it_was_told(
    made: tuple[Path, Told], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, told = made
    commands = list_commands(folder)
    assert set(commands) == set(MAKERS.values()) == set(told)
    again: Told = {}
    watch(monkeypatch, again, stop=True)
    for file, words in commands.items():
        with pytest.raises(StoppedError):
            call(*words)
        assert list(again) == [file]
        found, wanted = again.pop(file), told[file]
        assert {name: found.get(name) for name in wanted} == wanted
        assert set(found) == set(wanted)


@pytest.mark.sweep
def test_quantize_s_and_verify_s_commands_give_the_same_file_and_the_same_numbers(made: tuple[Path, Told]) -> None:
    folder, _ = made
    commands = list_commands(folder)

    def run_into(file: str, output: str) -> Path:
        *words, option, written = commands[file]
        assert option == "-o" and Path(written) == folder.relative_to(Path.cwd()) / file.removesuffix(".onnx.json")
        call(*words, option, output)
        return Path(output)

    kept = decode_result((folder / "results/parity.json").read_bytes(), ParityReport)
    again = decode_result(run_into("results/parity.json", "parity.json").read_bytes(), ParityReport)
    assert [(row.model, row.mode, row.against, row.metrics) for row in again.rows] == [
        (row.model, row.mode, row.against, row.metrics) for row in kept.rows
    ]
    assert (again.checks, again.layers, again.call) == (kept.checks, kept.layers, kept.call)
    assert {check.bound for check in kept.checks if check.name == "sqnr_db"} == {1.5}
    evaluation = decode_result((folder / "results/evaluation.json").read_bytes(), EvalReport)
    repeated = decode_result(run_into("results/evaluation.json", "evaluation.json").read_bytes(), EvalReport)
    assert [one.predictions for one in repeated.models] == [one.predictions for one in evaluation.models]
    assert repeated.metrics == evaluation.metrics
    *words, _, _ = commands["int8.onnx.json"]
    call(*words, "-o", "again.onnx")
    assert digest_file(Path("again.onnx")) == digest_file(folder / "int8.onnx")
    *words, _, _ = commands["simplified.calibration/calibration.npz"]
    call(*words, "-o", "calibration")
    one, other = (np.load(path) for path in (folder / MAKERS["calibrate"], Path("calibration/calibration.npz")))
    assert {name: one[name].tolist() for name in one} == {name: other[name].tolist() for name in other}
    assert json.loads((folder / "int8.onnx.json").read_bytes())["provenance"]["params"]["keep_float"] == ["f?"]
