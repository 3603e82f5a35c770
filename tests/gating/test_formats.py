"""JUnit, SARIF and Markdown say what the check found, in the form that their readers ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from mbdeploy.gating.files import append_text, write_files
from mbdeploy.gating.junit import write_junit
from mbdeploy.gating.report import CheckReport
from mbdeploy.gating.sarif import write_sarif
from mbdeploy.gating.tables import render_markdown, tabulate_report
from mbdeploy.results import decode_result
from mbdeploy.stages.tables import render_tables

LEVELS = {"none", "note", "warning", "error"}


def read_sarif(report: CheckReport, root: Path) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(write_sarif(report, root=root))
    return log


def test_junit_counts_every_end_and_marks_each_test_with_it(report: CheckReport) -> None:
    root = ElementTree.fromstring(write_junit(report))
    assert root.tag == "testsuites"
    (suite,) = root
    counts = {name: suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped")}
    assert counts == {"name": "tiny", "tests": "5", "failures": "1", "errors": "1", "skipped": "1"}
    ends = {case.get("name"): [child.tag for child in case] for case in suite}
    assert ends == {
        "run": [],
        "run[cuda]": ["error"],
        "int8[cpu] max_abs": [],
        "int8[cpu] sqnr_db": ["failure"],
        "int8[cpu] baseline_latency": ["skipped"],
    }
    assert all(set(case.attrib) == {"classname", "name", "time"} for case in suite)


def test_a_failure_in_junit_says_the_value_the_bound_the_node_and_what_to_do(report: CheckReport) -> None:
    failure = ElementTree.fromstring(write_junit(report)).find(".//failure")
    assert failure is not None and failure.get("type") == "MB402"
    message = failure.get("message") or ""
    assert "12, expected >= 15" in message
    assert "first at Conv conv1" in message
    assert "keep_float" in message


def test_sarif_has_what_the_schema_requires(report: CheckReport, tmp_path: Path) -> None:
    log = read_sarif(report, tmp_path)
    assert log["version"] == "2.1.0" and log["$schema"].endswith("sarif-schema-2.1.0.json")
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"] == "mbdeploy"
    assert all(rule["id"] and rule["shortDescription"]["text"] for rule in driver["rules"])
    assert len({rule["id"] for rule in driver["rules"]}) == len(driver["rules"])
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"] and result["level"] in LEVELS
        (location,) = result["locations"]
        assert location["physicalLocation"]["artifactLocation"]["uri"] == "models/tiny.toml"
        assert location["physicalLocation"]["region"]["startLine"] >= 1
        assert all(place["fullyQualifiedName"] for place in location["logicalLocations"])
        assert set(result["partialFingerprints"]) == {"mbdeploy/v1"}
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is False
    assert invocation["exitCode"] == 3
    assert invocation["toolExecutionNotifications"][0]["message"]["text"] == "tiny: no GPU"


def test_sarif_places_gates_on_the_budget_s_line_and_findings_on_nodes(report: CheckReport, tmp_path: Path) -> None:
    results = read_sarif(report, tmp_path)["runs"][0]["results"]
    found = [
        (
            result["ruleId"],
            result["level"],
            result["locations"][0]["physicalLocation"]["region"]["startLine"],
            result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"],
        )
        for result in results
    ]
    assert found == [
        ("MB402", "error", 13, "tiny::int8::conv1"),
        ("MB413", "warning", 11, "tiny::int8"),
        ("MB301", "error", 8, "tiny::int8::conv\\x1b[31m<script>"),
        ("MB301", "error", 8, "tiny::int8"),
    ]
    assert len({result["partialFingerprints"]["mbdeploy/v1"] for result in results}) == 4


def test_a_card_outside_the_repository_has_a_full_address(report: CheckReport, tmp_path: Path) -> None:
    uri = read_sarif(report, tmp_path / "elsewhere")["runs"][0]["results"][0]["locations"][0]["physicalLocation"]
    assert uri["artifactLocation"]["uri"] == (tmp_path / "models" / "tiny.toml").as_uri()


def test_tables_say_the_verdict_the_gates_and_the_findings(report: CheckReport) -> None:
    text = render_tables(tabulate_report(report))
    assert text.startswith("Check: not available")
    assert max(map(len, text.splitlines())) <= 80
    for said in ("int8 on cpu", "inconclusive", "no GPU", "MB301", "p = 0.04, after Holm's correction = 0.08"):
        assert said in text


def test_markdown_shows_what_is_wrong_and_folds_what_is_fine(report: CheckReport) -> None:
    assert "<details>" not in render_markdown(report)
    fine = msgspec.structs.replace(
        report.cards[0], card="<b>", gates=report.cards[0].gates[:1], refusals=(), divergences=(), lint=()
    )
    text = render_markdown(msgspec.structs.replace(report, cards=(fine,), exit_code=0))
    assert "<details><summary>&lt;b&gt;</summary>" in text


def test_files_are_written_where_they_were_asked_for(
    report: CheckReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    places = write_files(report, junit=Path("j.xml"), json=Path("new/r.json"), md=Path("r.md"))
    assert places == [Path("new/r.json"), Path("j.xml"), Path("r.md")]
    assert decode_result(Path("new/r.json").read_bytes(), CheckReport).exit_code == 3
    append_text(Path("r.md"), "more")
    assert Path("r.md").read_text().endswith("\nmore")
