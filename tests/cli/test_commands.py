"""What commands print, where, and with which exit code; stages themselves are tested in tests/stages."""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mbdeploy.card import Budgets, list_cards
from mbdeploy.cli import program
from mbdeploy.errors import EXIT_BAD_INPUT, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK, EXIT_UNAVAILABLE
from mbdeploy.records import SimplifyRecord
from mbdeploy.results import Check, ParityReport
from mbdeploy.stages.bundle import Opened
from mbdeploy.stages.matrix import MatrixReport

ODD_NAMES = ("two words.onnx", 'it\'s "quoted".onnx', "模型.onnx", "--version.onnx", "$(id);rm.onnx")
NOT_MODELS = {
    "empty": (b"", "an empty file"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "an HTML page"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "a Git LFS pointer"),
    "random": (random.Random(0).randbytes(4096), "bytes that do not parse"),
}


def run(*args: object) -> Result:
    return CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, so that the default output out/ is never the checkout's."""
    monkeypatch.chdir(tmp_path)


def test_list_shows_every_card_and_says_which_are_seeded() -> None:
    result = run("list")
    assert result.exit_code == EXIT_OK
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    cards = list_cards()
    assert {card.name for card in cards} <= set(lines)
    assert all(("seeded (" in lines[card.name]) is not card.trained for card in cards)
    assert "Seeded weights are not trained" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("args", [("list",), ("show", "mobilenet_v2"), ("doctor",)], ids=["list", "show", "doctor"])
def test_json_alone_is_on_standard_output_and_has_its_schema_version(args: tuple[str, ...]) -> None:
    result = run(*args, "--format", "json")
    assert result.exit_code == EXIT_OK
    assert json.loads(result.stdout)["schema_version"] == 1
    assert result.stderr == ""


def test_show_prints_what_the_card_says() -> None:
    lines = [" ".join(line.split()) for line in run("show", "mobilenet_v1_025").stdout.splitlines()]
    assert {"net mobilenet_v1", "args.alpha 0.25", "weights.seed 0", "preprocess.size 224"} <= set(lines)


def test_an_unknown_card_is_refused_with_the_names_of_those_that_are_here() -> None:
    for command in ("show", "run", "export", "report", "simplify", "demo"):
        result = run(command, "mobilnet")
        assert result.exit_code == EXIT_BAD_INPUT, command
        assert result.stderr.startswith("error: mobilnet: expected a card's name (")
        assert "efficientnet_lite0, " in result.stderr
        assert result.stdout == ""


def test_an_unknown_key_in_a_card_is_named_with_its_file(tmp_path: Path) -> None:
    card = tmp_path / "mine.toml"
    card.write_text('name = "mine"\nsummary = "x"\nnet = "mobilenet_v1"\nwidth = 2\n')
    result = run("show", card)
    assert result.exit_code == EXIT_BAD_INPUT
    assert f"error: {card}: " in result.stderr
    assert "`width`" in result.stderr


def test_a_card_whose_files_are_not_made_yet_says_how_to_make_them() -> None:
    result = run("verify", "mobilenet_v1")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "`mbdeploy run mobilenet_v1`" in result.stderr


@pytest.mark.parametrize("kind", NOT_MODELS)
@pytest.mark.parametrize(
    "command",
    [("simplify",), ("quantize", "--calibration", "{photos}", "--preprocess", "tf"), ("verify",), ("bench",)],
    ids=lambda command: command[0],
)
def test_what_is_no_model_is_refused_by_its_kind(
    command: tuple[str, ...], kind: str, tmp_path: Path, photo_folder: Path
) -> None:
    data, found = NOT_MODELS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    result = run(*(word.format(photos=photo_folder) for word in command), path)
    assert result.exit_code == EXIT_BAD_INPUT
    assert f"error: {path}: expected an ONNX model, found {found}" in result.stderr
    assert result.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "photos"}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_file_names_are_only_names(name: str, tmp_path: Path, conv_model_file: Path) -> None:
    (tmp_path / name).write_bytes(conv_model_file.read_bytes()[:40])
    result = run("verify", "--", tmp_path / name)
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.stderr.startswith(f"error: {tmp_path / name}: expected an ONNX model")


def test_a_file_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    result = run("verify", tmp_path / "\x1b[31m.onnx")
    assert result.exit_code == EXIT_BAD_INPUT
    assert r"\x1b[31m.onnx: expected a file, found no such file or directory" in result.stderr
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_provider_that_is_not_here_is_exit_3_with_the_reason_and_no_number(
    command: str, conv_model_file: Path, photo_folder: Path
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.fail("this test is about a machine without CUDA; run it where onnxruntime-gpu is not installed")
    common = ("--preprocess", "unit", "--provider", "cuda")
    extra = ("--reference", conv_model_file, "--data", photo_folder) if command == "verify" else ()
    extra = (*extra, "--inputs", photo_folder) if command == "bench" else extra
    result = run(command, conv_model_file, *common, *extra)
    assert result.exit_code == EXIT_UNAVAILABLE
    assert "error: local: expected CUDAExecutionProvider, found onnxruntime " in result.stderr
    assert result.stdout == ""


def test_an_unknown_provider_is_bad_input(conv_model_file: Path) -> None:
    result = run("verify", conv_model_file, "--provider", "gpu")
    assert result.exit_code == EXIT_BAD_INPUT
    assert "expected a provider (cpu, arm, openvino, cuda" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["verify", "bench"])
def test_what_fell_back_is_labelled_and_a_rule_on_placement_then_fails(
    command: str, conv_model_file: Path, photo_folder: Path
) -> None:
    common = ("--preprocess", "unit", "--provider", "FooExecutionProvider", "--allow-fallback", "--format", "json")
    extra = ("--reference", conv_model_file, "--data", photo_folder) if command == "verify" else ()
    extra = ("--inputs", photo_folder, "--min-duration", "0.01", "--processes", "1") if command == "bench" else extra
    result = run(command, conv_model_file, *common, *extra, "--require-placement", "FooExecutionProvider>=50%")
    assert result.exit_code == EXIT_GATE_FAILED
    found = json.loads(result.stdout)
    rows = found["rows"] if command == "verify" else found["runs"]
    assert {row["provider"] for row in rows} == {"FooExecutionProvider (fell back to cpu)"}


def test_a_rule_on_placement_that_cannot_be_read_is_bad_input(conv_model_file: Path) -> None:
    result = run("verify", conv_model_file, "--require-placement", "mostly cuda")
    assert result.exit_code == EXIT_BAD_INPUT
    assert result.stderr.count("\n") == 1
    assert "'cuda>=95%', 'no float Conv', 'no Q/DQ left between convolutions', found 'mostly cuda'" in result.stderr


def make_check(passed: bool | None) -> Check:
    return Check(name="sqnr_db", subject="int8 on cpu", value=18.0, bound=20.0, comparison=">=", passed=passed)


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((True, True), EXIT_OK),
        ((), EXIT_OK),
        ((True, False, None), EXIT_GATE_FAILED),
        ((True, None), EXIT_INCONCLUSIVE),
    ],
)
def test_the_exit_code_of_verify_is_that_of_its_gates(
    verdicts: tuple[bool | None, ...], code: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mbdeploy.stages import verify as stage

    checks = tuple(make_check(passed) for passed in verdicts)
    made = ParityReport(reference="golden.npz", rows=(), checks=checks, hosts={})
    monkeypatch.setattr(stage, "verify", lambda models, **keywords: made)
    result = run("verify", "a.onnx", "--output", tmp_path / "parity.json")
    assert result.exit_code == code
    assert json.loads((tmp_path / "parity.json").read_text())["reference"] == "golden.npz"
    assert "wrote" in result.stderr
    assert "wrote" not in result.stdout


@pytest.mark.parametrize("matrix", [False, True])
def test_a_result_of_a_bundle_names_the_bundle_and_not_where_it_was_unpacked(
    matrix: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextlib.contextmanager
    def open_it(path: Path) -> Iterator[Opened]:
        yield Opened(models=(tmp_path / "a.onnx",), golden=tmp_path / "golden.npz", budgets=Budgets())

    parity = ParityReport(reference="g", rows=(), checks=(), hosts={})
    cells = MatrixReport(reference="g", rows=(), checks=(), divergences=(), reduced=(), hosts={})
    for stage, name, made in (("verify", "verify", parity), ("matrix", "verify_matrix", cells)):
        monkeypatch.setattr(f"mbdeploy.stages.{stage}.{name}", lambda made=made, **keywords: made)
    monkeypatch.setattr("mbdeploy.stages.bundle.opening_bundle", open_it)
    words = ["--matrix"] if matrix else []
    assert run("verify", "net.zip", "--threads", 2, *words, "-o", tmp_path / "p.json").exit_code == EXIT_OK
    said = {"threads": 2, "matrix": True} if matrix else {"threads": 2}
    found = json.loads((tmp_path / "p.json").read_text())["call"]
    assert found == {"command": "verify", "arguments": ["./net.zip"], "options": said}


@pytest.mark.parametrize(("onnxsim", "code"), [("OK", EXIT_OK), ("CRASHED", EXIT_GATE_FAILED)])
def test_strict_simplify_fails_if_onnxsim_did(
    onnxsim: str, code: int, monkeypatch: pytest.MonkeyPatch, conv_model_file: Path
) -> None:
    from mbdeploy.stages import simplify as stage

    record = SimplifyRecord(
        onnxsim=onnxsim,
        attempt="as it is",
        detail="",
        rewrites=(),
        operators_before={},
        operators_after={},
        max_abs=0.0,
        opsets=(18, 18),
    )

    def pretend(model: Path, *, output: Path, **keywords: Any) -> SimplifyRecord:
        output.write_bytes(model.read_bytes())
        return record

    monkeypatch.setattr(stage, "simplify", pretend)
    assert run("simplify", conv_model_file, "--strict").exit_code == code
    assert run("simplify", conv_model_file).exit_code == EXIT_OK


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_simplify_and_quantize_write_beside_a_foreign_file_and_never_change_it(
    tmp_path: Path, conv_model_file: Path, photo_folder: Path
) -> None:
    before = conv_model_file.read_bytes()
    result = run("simplify", conv_model_file)
    assert result.exit_code == EXIT_OK, result.stderr
    simplified = tmp_path / "conv.simplified.onnx"
    result = run("quantize", simplified, "--calibration", photo_folder, "--preprocess", "unit", "--format", "json")
    assert result.exit_code == EXIT_OK, result.stderr
    assert json.loads(result.stdout)["samples"] == 6
    assert (tmp_path / "conv.int8.onnx").is_file()
    assert conv_model_file.read_bytes() == before


@pytest.mark.parametrize("args", [("list",), ("list", "--format", "md"), ("doctor",)])
def test_no_color_and_pipes_get_no_escape_sequences(args: tuple[str, ...]) -> None:
    result = CliRunner(env={"NO_COLOR": "1"}).invoke(program, list(args), color=True)
    assert result.exit_code == EXIT_OK
    assert "\x1b" not in result.output


def test_a_folder_without_results_is_refused_by_report(tmp_path: Path) -> None:
    result = run("report", tmp_path)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "expected a folder that `mbdeploy run` has written" in result.stderr


def test_run_as_a_rehearsal_writes_nothing(tmp_path: Path, tiny_card: Path) -> None:
    result = run("run", tiny_card, "--dry-run", "--format", "json")
    assert result.exit_code == EXIT_OK, result.stderr
    stages = json.loads(result.stdout)["stages"]
    assert [stage["name"] for stage in stages][:3] == ["export", "simplify", "quantize"]
    assert not any(stage["fresh"] for stage in stages)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "tiny.toml"]
