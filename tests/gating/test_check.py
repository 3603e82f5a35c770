"""What a check does with cards, providers and versions; whole runs on a small card, and the command around them."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from mbdeploy.card import ModelCard, load_card
from mbdeploy.cli import program
from mbdeploy.cli.check import command as check_command
from mbdeploy.cli.init import command as init_command
from mbdeploy.errors import DataError, ModelError, UnavailableError, UsageError
from mbdeploy.gating import check as checking
from mbdeploy.gating import measuring, versions
from mbdeploy.gating.check import check, check_card
from mbdeploy.gating.init import init, update_budgets
from mbdeploy.gating.measured import Measured, collect_gates
from mbdeploy.gating.report import CheckReport, Lint, Place
from mbdeploy.results import Check, decode_result
from mbdeploy.stages.bench import bench

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
quantization = { calibration = "photos", num_calibration_samples = 3, recipe = "portable" }
[budgets]
int8_sqnr_db = 5.0
"""
MEASURED = Measured(
    checks=tuple(
        Check(name=name, subject=f"{what} on cpu, output y", value=1.0, bound=0.0, comparison=">=", passed=True)
        for name, what in (("max_abs", "fp32"), ("sqnr_db", "int8"), ("exact_gap_db", "int8"))
    ),
    parity=(),
    latency=(),
)


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A card in models/ of an empty folder, in which the test stands."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "models" / "tiny.toml"
    path.parent.mkdir()
    path.write_text(CARD)
    return load_card(path)


@pytest.fixture
def calls(card: ModelCard, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The pipeline and what reads its files, replaced; the providers of each run. CUDA is not here."""
    made: list[Any] = []

    def run(path: str, *, output: Path, providers: list[str], **options: Any) -> None:
        made.append(tuple(providers))
        if "CUDAExecutionProvider" in providers:
            raise UnavailableError(expected="a GPU", found="none", todo="get one")
        (output / "int8.onnx").touch()

    finding = Lint(rule="MB301", level="error", title="t", summary="s", change="c", places=(Place(node="n", text="x"),))
    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(measuring, "read_measured", lambda folder: MEASURED)
    monkeypatch.setattr(
        checking, "lint_model", lambda model, *, ignore, on_progress: () if "MB301" in ignore else (finding,)
    )
    return made


def test_gates_know_their_variant_provider_rule_and_budget(card: ModelCard) -> None:
    found = [(gate.variant, gate.provider, gate.rule, gate.budget) for gate in collect_gates(card, MEASURED)]
    assert found == [
        ("fp32", "cpu", "MB401", "export_max_abs"),
        ("int8", "cpu", "MB402", "int8_sqnr_db"),
        ("int8", "cpu", "MB404", "int8_exact_gap_db"),
    ]


def test_a_rule_over_placement_is_a_gate_of_its_own(card: ModelCard) -> None:
    rule = Check(name="no float Conv", subject="int8 on cpu", value=1, bound=0, comparison="<=", passed=False)
    gate = collect_gates(card, msgspec.structs.replace(MEASURED, checks=(rule,)))[0]
    assert (gate.variant, gate.provider, gate.rule, gate.budget) == ("int8", "cpu", "MB407", "")


def test_rules_over_placement_go_to_the_providers_that_they_judge(
    card: ModelCard, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, replaced = [], measuring.run

    def run(path: str, *, providers: list[str], require_placement: list[str], **options: Any) -> None:
        asked.append((*providers, *require_placement))
        replaced(path, providers=providers, **options)

    monkeypatch.setattr(measuring, "run", run)
    cuda, rules = "CUDAExecutionProvider", ("no float Conv", "cuda>=95%")
    check([card], providers=["cpu", cuda], require_placement=rules)
    assert asked == [("cpu", cuda, *rules), ("cpu", rules[0]), (cuda, *rules)]
    with pytest.raises(UsageError, match="expected --provider cuda, found cpu"):
        check([card], require_placement=rules)
    assert len(asked) == 3


def test_an_error_of_the_audit_is_a_gate_unless_it_is_ignored(card: ModelCard, calls: list[Any]) -> None:
    report = check([card])
    assert report.exit_code == 1
    assert [gate.check.note for gate in report.cards[0].gates if gate.rule == "MB421"] == ["MB301"]
    assert "no latency_ratio" in report.cards[0].notes[0]
    assert check([card], ignore=["MB301"]).exit_code == 0


def test_a_provider_that_is_not_here_is_a_row_and_the_others_go_on(card: ModelCard, calls: list[Any]) -> None:
    report = check([card], providers=["cpu", "CUDAExecutionProvider"], ignore=["MB301"])
    (result,) = report.cards
    assert calls == [("cpu", "CUDAExecutionProvider"), ("cpu",), ("CUDAExecutionProvider",)]
    assert [(one.provider, one.exit_code) for one in result.refusals] == [("CUDAExecutionProvider", 3)]
    assert len(result.gates) == 4 and report.exit_code == 3


def test_a_card_that_cannot_be_used_does_not_keep_others_from_being_judged(
    card: ModelCard, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = msgspec.structs.replace(card, name="other")

    def read(folder: Path) -> Measured:
        if folder.name == "other":
            raise DataError(expected="a result", found="nothing", todo="look")
        return MEASURED

    monkeypatch.setattr(measuring, "read_measured", read)
    report = check([other, card], ignore=["MB301"])
    assert [result.exit_code for result in report.cards] == [2, 0]
    assert report.exit_code == 2


def test_what_means_nothing_is_refused_before_any_work(card: ModelCard, calls: list[Any], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'rocm'"):
        check([card], providers=["rocm"])
    with pytest.raises(ModelError, match="of another version"):
        check([card], baseline=tmp_path)
    assert calls == []


def test_a_card_that_the_baseline_does_not_have_is_said_to_be_new(card: ModelCard, calls: list[Any]) -> None:
    known = Path("ref/other/int8.onnx")
    known.parent.mkdir(parents=True)
    known.touch()
    both = [card, msgspec.structs.replace(card, name="other")]
    result = check(both[:1] + both[1:], baseline=Path("ref"), ignore=["MB301"]).cards[0]
    assert any(note.startswith("new: ref holds no other version") for note in result.notes)


def test_a_test_suite_s_card_has_its_gates_and_no_findings(card: ModelCard, calls: list[Any]) -> None:
    result = check_card(card, Path("out/tiny"), ["cpu"], trust=False)
    assert (len(result.gates), result.lint, result.exit_code) == (3, (), 0)


def run_command(*args: object) -> Result:
    return CliRunner().invoke(program, [str(arg) for arg in args])


def test_the_command_writes_files_adds_to_the_summary_and_ends_in_the_worst_code(
    card: ModelCard, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = Path("summary.md")
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    files = ("--junit", "r/j.xml", "--sarif", "r/s.sarif", "--json", "r/c.json", "--md", "r/c.md")
    result = run_command("check", *files, "--format", "json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["exit_code"] == 1
    assert {path.name for path in Path("r").iterdir()} == {"j.xml", "s.sarif", "c.json", "c.md"}
    assert summary.read_text() == "before\n" + Path("r/c.md").read_text()
    assert decode_result(Path("r/c.json").read_bytes(), CheckReport).cards[0].card == "tiny"


def list_options(command: click.Command) -> set[str]:
    return {parameter.name or "" for parameter in command.params if parameter.expose_value}


def test_option_names_are_the_keywords_of_the_functions_called() -> None:
    called = {"on_stage", "on_progress", "on_link"}
    own = {"words", "all_cards", "junit", "sarif", "json_file", "md"}
    assert list_options(check_command) - own == set(inspect.signature(check).parameters) - called - {"cards"}
    made = set(inspect.signature(init).parameters) - called
    assert list_options(init_command) - {"update_budgets", "no_ci"} == made
    assert set(inspect.signature(update_budgets).parameters) - called - {"card"} <= made


def test_options_that_an_update_does_not_have_are_refused(card: ModelCard) -> None:
    result = run_command("init", "tiny", "--update-budgets", "--recipe", "portable")
    assert result.exit_code == 2
    assert "found --recipe" in result.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_failure_is_traced_to_the_budget_s_line_and_all_is_fresh_when_versions_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_onnx_card: Callable[..., Path]
) -> None:
    monkeypatch.setattr(versions, "bench", functools.partial(bench, processes=1))
    monkeypatch.chdir(tmp_path)
    card = make_onnx_card(tmp_path / "models", more="[budgets]\nint8_sqnr_db = 90.0\n")
    words = ("check", "--min-duration", "0.05", "--format", "json")
    first = run_command(*words, "--sarif", "s.sarif")
    assert first.exit_code == 1, first.stderr
    result = decode_result(first.stdout.encode(), CheckReport).cards[0]
    assert {gate.rule for gate in result.gates} == {"MB401", "MB402", "MB403", "MB404", "MB421"}
    assert [gate.rule for gate in result.gates if gate.check.passed is not True] == ["MB402"]
    assert len(result.divergences) == 1
    location = json.loads(Path("s.sarif").read_text())["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert location["region"]["startLine"] == card.read_text().splitlines().index("int8_sqnr_db = 90.0") + 1
    again = run_command(*words, "--baseline", "out")
    assert again.stderr.count("(fresh)") == 6
    result = decode_result(again.stdout.encode(), CheckReport).cards[0]
    assert {"MB411", "MB412", "MB413"} <= {gate.rule for gate in result.gates}
    assert [gate.check.value for gate in result.gates if gate.rule == "MB411"] == [0.0]
    assert [change.figure for change in result.changes][:2] == ["SQNR", "reference's class"]
