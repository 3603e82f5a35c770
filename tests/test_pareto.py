"""Who is beaten: costs no less in anything and more in something, or a cost that nobody knows."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from mbdeploy.pareto import is_beaten

COSTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12)


def test_one_that_is_better_in_something_is_not_beaten_and_equals_do_not_beat_each_other() -> None:
    costs = [(1.0, 2.0), (2.0, 1.0), (2.0, 2.0), (1.0, 2.0)]
    assert [is_beaten(own, costs) for own in costs] == [False, False, True, False]
    assert not is_beaten((-math.inf, 1.0), [(0.0, 1.0)])


def test_a_cost_that_nobody_knows_is_on_no_front_and_beats_nothing() -> None:
    assert is_beaten((1.0, math.nan), [])
    assert not is_beaten((5.0, 5.0), [(1.0, math.nan)])


@given(COSTS)
def test_some_are_always_left_and_each_beaten_one_is_beaten_by_one_of_them(costs: list[tuple[int, ...]]) -> None:
    front = [own for own in costs if not is_beaten(own, costs)]
    assert front
    assert all(own in front or is_beaten(own, front) for own in costs)
