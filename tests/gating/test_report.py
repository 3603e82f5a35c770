"""Exit codes of rows, cards and checks, and the line and the node that a gate is about."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mbdeploy.gating.report import (
    WORST_FIRST,
    CheckReport,
    Gate,
    describe_divergence,
    find_divergence,
    find_worst,
    judge_gate,
)


@pytest.mark.parametrize(
    ("codes", "worst"),
    [([], 0), ([0, 4], 4), ([4, 1], 1), ([1, 3, 0], 3), ([3, 2, 1], 2), ([2, 5], 5), ([0, 0], 0)],
)
def test_the_worst_code_is_the_first_of_the_documented_order(codes: list[int], worst: int) -> None:
    assert WORST_FIRST == (5, 2, 3, 1, 4, 0)
    assert find_worst(codes) == worst


@pytest.mark.parametrize(("passed", "code"), [(True, 0), (False, 1), (None, 4)])
def test_a_gate_alone_ends_in_its_own_code(make_gate: Callable[..., Gate], passed: bool | None, code: int) -> None:
    assert judge_gate(make_gate(passed=passed)) == code


def test_a_provider_that_is_not_here_is_worse_than_a_gate_that_failed(report: CheckReport) -> None:
    assert report.exit_code == 3


def test_a_failed_gate_finds_the_node_that_its_own_cell_was_traced_to(report: CheckReport) -> None:
    held, failed, _ = report.cards[0].gates
    assert find_divergence(report.cards[0], held) is None
    found = find_divergence(report.cards[0], failed)
    assert found is not None
    assert describe_divergence(found) == "first at Conv conv1: sqnr_db 16 before, 12 after it"


def test_a_gate_is_called_as_a_test_is(make_gate: Callable[..., Gate]) -> None:
    assert make_gate().name == "tiny::int8[cpu]::sqnr_db"
