"""The exit code that a result deserves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mbdeploy.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from mbdeploy.isolate import Verdict
from mbdeploy.records import SimplifyRecord
from mbdeploy.results import Check

if TYPE_CHECKING:
    from mbdeploy.derive import Answer


def judge_checks(checks: Iterable[Check]) -> int:
    """1 if a gate failed, else 4 if one was inconclusive, else 0."""
    verdicts = [check.passed for check in checks]
    if False in verdicts:
        return EXIT_GATE_FAILED
    return EXIT_INCONCLUSIVE if None in verdicts else EXIT_OK


def judge_answer(answer: Answer) -> int:
    """0 to ship, 1 not to, 4 if nobody can tell."""
    return {"ship": EXIT_OK, "don't ship": EXIT_GATE_FAILED, "inconclusive": EXIT_INCONCLUSIVE}[answer]


def judge_strictly(record: SimplifyRecord) -> int:
    """1 if onnxsim failed or changed the outputs, although the file was simplified without it."""
    return EXIT_OK if record.onnxsim == Verdict.OK.value else EXIT_GATE_FAILED


def judge_target(verdict: str | None) -> int:
    """0 if the file chosen has met its target, 4 if nobody can tell, 1 if none was chosen."""
    return {"met": EXIT_OK, "inconclusive": EXIT_INCONCLUSIVE}.get(verdict or "", EXIT_GATE_FAILED)
