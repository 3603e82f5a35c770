"""The exit code that a result deserves."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mbdeploy.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK
from mbdeploy.isolate import Verdict
from mbdeploy.records import SimplifyRecord
from mbdeploy.results import Check


def judge_checks(checks: Iterable[Check]) -> int:
    """1 if a gate failed, else 4 if one was inconclusive, else 0."""
    verdicts = [check.passed for check in checks]
    if False in verdicts:
        return EXIT_GATE_FAILED
    return EXIT_INCONCLUSIVE if None in verdicts else EXIT_OK


def judge_strictly(record: SimplifyRecord) -> int:
    """1 if onnxsim failed or changed the outputs, although the file was simplified without it."""
    return EXIT_OK if record.onnxsim == Verdict.OK.value else EXIT_GATE_FAILED


def judge_target(verdicts: Collection[str]) -> int:
    """0 if a measured file has met the target, else 4 if one was inconclusive, else 1."""
    if "met" in verdicts:
        return EXIT_OK
    return EXIT_INCONCLUSIVE if "inconclusive" in verdicts else EXIT_GATE_FAILED
