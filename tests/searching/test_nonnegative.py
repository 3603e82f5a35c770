"""Non-negative least squares against what it must be."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mbdeploy.searching.nonnegative import solve_nonnegative


def solve_by_trying(rows: NDArray[np.float64], wanted: NDArray[np.float64]) -> float:
    """The least squared error over every set of columns whose plain solution is not negative."""
    count = rows.shape[1]
    best = float(wanted @ wanted)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            found = np.linalg.lstsq(rows[:, chosen], wanted, rcond=None)[0]
            if (found >= -1e-9).all():
                best = min(best, float(np.square(rows[:, chosen] @ found - wanted).sum()))
    return best


def test_what_is_not_negative_is_found_exactly() -> None:
    rows = np.random.default_rng(0).uniform(0, 1, (9, 3)) * [1, 1e-6, 1e6]
    law = np.array([2.0, 3e6, 0.0])
    np.testing.assert_allclose(solve_nonnegative(rows, rows @ law), law, rtol=1e-8, atol=1e-12)


def test_what_would_be_negative_is_zero() -> None:
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    found = solve_nonnegative(rows, np.array([1.0, -1.0, 0.0]))
    np.testing.assert_allclose(found, [0.5, 0.0], atol=1e-12)


def test_no_columns_and_columns_of_zeros_are_worth_nothing() -> None:
    assert solve_nonnegative(np.zeros((2, 0)), np.ones(2)).shape == (0,)
    np.testing.assert_array_equal(solve_nonnegative(np.array([[0.0, 2.0]]), np.array([4.0])), [0.0, 2.0])


_NUMBERS = st.integers(-4, 4).map(float)


@settings(max_examples=50, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda k: st.tuples(arrays(float, (5, k), elements=_NUMBERS), arrays(float, 5, elements=_NUMBERS))
    )
)
def test_no_choice_of_columns_does_better(task: tuple[NDArray[np.float64], NDArray[np.float64]]) -> None:
    rows, wanted = task
    found = solve_nonnegative(rows, wanted)
    assert (found >= 0).all()
    assert float(np.square(rows @ found - wanted).sum()) <= solve_by_trying(rows, wanted) + 1e-6
