"""Every code that the program can show has an entry, and an unknown one gets the nearest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mbdeploy
from mbdeploy import errors
from mbdeploy.auditing.rules import RULES as AUDIT_RULES
from mbdeploy.cli import EXIT_CLOSED_PIPE, EXIT_INTERRUPTED
from mbdeploy.costs.rules import RULES as COST_RULES
from mbdeploy.derive import ANSWERS
from mbdeploy.errors import MbdeployError, UsageError
from mbdeploy.gating.explain import explain, list_entries
from mbdeploy.gating.rules import RULES, describe_rule
from mbdeploy.isolate import Verdict
from mbdeploy.stages.simplify import CHANGED
from mbdeploy.stages.wording import _VERDICTS as ENDS

ENTRIES = list_entries()


def list_error_classes(root: type[MbdeployError]) -> set[str]:
    return {root.__name__}.union(*(list_error_classes(child) for child in root.__subclasses__()))


def test_every_id_in_the_source_and_in_the_tables_of_rules_has_an_entry() -> None:
    package = Path(mbdeploy.__file__).parent
    written = {code for file in package.rglob("*.py") for code in re.findall(r"\bMB\d{3}\b", file.read_text("utf-8"))}
    assert {*COST_RULES, *AUDIT_RULES, *RULES} == {code for code in ENTRIES if code.startswith("MB")}
    assert written - ENTRIES.keys() == set()
    assert all(describe_rule(code) for code in written)


def test_every_verdict_has_an_entry() -> None:
    assert {verdict.value for verdict in Verdict} | {CHANGED, *ENDS.values(), *ANSWERS} <= ENTRIES.keys()


def test_every_exit_code_and_error_has_an_entry() -> None:
    codes = {str(value) for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert codes | {str(EXIT_INTERRUPTED), str(EXIT_CLOSED_PIPE)} <= ENTRIES.keys()
    assert list_error_classes(MbdeployError) <= ENTRIES.keys()


@pytest.mark.parametrize("error", [error for error in vars(errors).values() if isinstance(error, type)])
def test_an_error_s_entry_names_its_exit_code(error: type[Exception]) -> None:
    if error is not MbdeployError:
        assert f"Exit code {error.exit_code}" in ENTRIES[error.__name__].text  # type: ignore[attr-defined]


def test_each_entry_is_a_sentence_or_a_few() -> None:
    for entry in ENTRIES.values():
        assert entry.text.endswith(".") and 20 < len(entry.text) < 400, entry.code


def test_a_code_is_found_in_any_case() -> None:
    assert explain("mb301") == ENTRIES["MB301"]
    assert "16 bits" in explain("Mb204").text


def test_an_unknown_code_names_the_nearest_ones() -> None:
    with pytest.raises(UsageError, match="MB301"):
        explain("MB3O1")
    with pytest.raises(UsageError, match="see `mbdeploy explain`"):
        explain("zzzzzzzzzzzz")
