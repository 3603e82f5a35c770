"""A check as JUnit XML, in the form that pytest writes and Jenkins, GitLab and GitHub's reporters read."""

from __future__ import annotations

from xml.etree import ElementTree

from mbdeploy.gating.holm import say_p_values
from mbdeploy.gating.report import CardResult, CheckReport, Gate, describe_divergence, find_divergence
from mbdeploy.gating.rules import RULES
from mbdeploy.stages.tables import escape_controls


def write_junit(report: CheckReport) -> bytes:
    """One suite a card: a test for its run and one a gate.

    A gate that does not hold is a ``failure``, an inconclusive one is ``skipped`` (the exit code tells the two apart),
    and what could not be judged an ``error``.
    """
    root = ElementTree.Element("testsuites", name="mbdeploy")
    for result in report.cards:
        _add_suite(root, result)
    for count in ("tests", "failures", "errors", "skipped"):
        root.set(count, str(sum(int(suite.get(count, "0")) for suite in root)))
    root.set("time", f"{sum(result.seconds for result in report.cards):.3f}")
    ElementTree.indent(root)
    return b"%b\n" % ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _add_suite(root: ElementTree.Element, result: CardResult) -> None:
    suite = ElementTree.SubElement(root, "testsuite", name=escape_controls(result.card))
    _add_case(suite, result.card, "run", result.seconds)
    for refusal in result.refusals:
        case = _add_case(suite, result.card, f"run[{refusal.provider or 'all'}]", 0.0)
        _add_end(case, "error", refusal.error, refusal.text)
    for gate in result.gates:
        case = _add_case(suite, result.card, f"{gate.variant}[{gate.provider}] {gate.check.name}", 0.0)
        if gate.check.passed is None:
            _add_end(case, "skipped", "inconclusive", describe_gate(result, gate))
        elif not gate.check.passed:
            _add_end(case, "failure", gate.rule, describe_gate(result, gate))
    cases = list(suite)
    suite.set("tests", str(len(cases)))
    for count, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(count, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", f"{result.seconds:.3f}")


def describe_gate(result: CardResult, gate: Gate) -> str:
    """What a gate found, its bound, and what to do."""
    check = gate.check
    lines = [f"{gate.name}: {check.value:.4g}, expected {check.comparison} {check.bound:.4g}"]
    found = find_divergence(result, gate)
    more = (say_p_values(gate), check.note, describe_divergence(found) if found else "")
    lines += [text for text in more if text]
    return "; ".join([*lines, RULES[gate.rule].change])


def _add_case(suite: ElementTree.Element, card: str, name: str, seconds: float) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite,
        "testcase",
        classname=escape_controls(f"mbdeploy.{card}"),
        name=escape_controls(name),
        time=f"{seconds:.3f}",
    )


def _add_end(case: ElementTree.Element, tag: str, kind: str, text: str) -> None:
    shown = escape_controls(text)
    ElementTree.SubElement(case, tag, type=kind, message=shown).text = shown
