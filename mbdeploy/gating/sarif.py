"""A check as SARIF 2.1.0 (OASIS): findings and gates at a node and at a line of the card, for code scanning."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.artifact import read_tools
from mbdeploy.gating.cards import find_line
from mbdeploy.gating.junit import describe_gate
from mbdeploy.gating.report import CardResult, CheckReport, Gate, Lint, find_divergence
from mbdeploy.gating.rules import describe_rule
from mbdeploy.stages.tables import escape_controls

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
#: The tables of a card in which what a finding is about stands, by the finding's hundred.
_TABLES = {"MB1": "net", "MB2": "quantization", "MB3": "quantization"}


def write_sarif(report: CheckReport, *, root: Path) -> bytes:
    """The log: one result a place of a finding, and one a gate that does not hold.

    Files are named relative to ``root``, where the repository is, or by their full path outside it.
    """
    results = [one for result in report.cards for one in _list_results(result, root)]
    codes = sorted({one["ruleId"] for one in results})
    for one in results:
        one["ruleIndex"] = codes.index(one["ruleId"])
    driver = {
        "name": "mbdeploy",
        "version": read_tools()["mbdeploy"],
        "rules": [_describe_rule(code) for code in codes],
    }
    ran = {
        "executionSuccessful": not any(result.refusals for result in report.cards),
        "exitCode": report.exit_code,
        "toolExecutionNotifications": [
            {"level": "error", "message": {"text": escape_controls(f"{result.card}: {refusal.text}")}}
            for result in report.cards
            for refusal in result.refusals
        ],
    }
    log = {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "invocations": [ran], "results": results}],
    }
    return msgspec.json.format(msgspec.json.encode(log), indent=1) + b"\n"


def _describe_rule(code: str) -> dict[str, Any]:
    title, sentence = describe_rule(code)
    return {
        "id": code,
        "name": title,
        "shortDescription": {"text": title},
        "fullDescription": {"text": sentence},
        "help": {"text": f"{sentence} `mbdeploy explain {code}` says more."},
    }


def _list_results(result: CardResult, root: Path) -> Iterator[dict[str, Any]]:
    card = Path(result.path)
    text = card.read_text(encoding="utf-8", errors="replace")
    uri = _name_file(card, root)
    model = f"{result.folder}/int8.onnx"
    for gate in result.gates:
        if gate.check.passed is not True and gate.rule != "MB421":  # the findings behind that one stand below
            yield _make_gate_result(result, gate, uri, find_line(text, "budgets", gate.budget))
    for item in result.lint:
        line = find_line(text, _TABLES[item.rule[:3]])
        yield from _make_lint_results(item, result.card, uri, line, model)


def _make_gate_result(result: CardResult, gate: Gate, uri: str, line: int) -> dict[str, Any]:
    found = find_divergence(result, gate)
    return _make_result(
        gate.rule,
        "error" if gate.check.passed is False else "warning",
        describe_gate(result, gate),
        uri,
        line,
        [gate.card, gate.variant, *([found.node] if found and found.node else [])],
        gate.name,
    )


def _make_lint_results(item: Lint, card: str, uri: str, line: int, model: str) -> Iterable[dict[str, Any]]:
    for place in item.places:
        text = f"{item.title}: {place.node or model}: {place.text}. To do: {item.change}."
        path = [card, "int8", *([place.node] if place.node else [])]
        yield _make_result(item.rule, item.level, text, uri, line, path, "::".join((item.rule, *path)))


def _make_result(
    rule: str, level: str, text: str, uri: str, line: int, path: list[str], identity: str
) -> dict[str, Any]:
    names = [escape_controls(part) for part in path]
    return {
        "ruleId": rule,
        "level": level,
        "message": {"text": escape_controls(text)},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": line}},
                "logicalLocations": [{"name": names[-1], "fullyQualifiedName": "::".join(names)}],
            }
        ],
        # What stays the same while figures change, so that a finding is told once.
        "partialFingerprints": {"mbdeploy/v1": hashlib.sha256(identity.encode(errors="replace")).hexdigest()},
    }


def _name_file(card: Path, root: Path) -> str:
    from urllib.parse import quote

    path = card.resolve()
    if path.is_relative_to(root.resolve()):
        return quote(path.relative_to(root.resolve()).as_posix())
    return path.as_uri()
