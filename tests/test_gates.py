"""No pair of outputs that cannot be compared passes any gate, however lenient: many made-up pairs, under -O too.

As a program (`python -O tests/test_gates.py N`) it tries N pairs and needs no assertion to fail.
"""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mbdeploy
from mbdeploy.card import Budgets
from mbdeploy.derive import judge_control, judge_ratio
from mbdeploy.estimate import Interval, estimate_ratio
from mbdeploy.gating.holm import compute_p_value
from mbdeploy.quant.metrics import check, compare_outputs, merge_sums, sum_outputs
from mbdeploy.quant.metrics import finish_sums as finish
from mbdeploy.results import Check, Metrics

Array = np.ndarray[Any, Any]
TYPES = (np.float32, np.float64, np.float16)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5).filter(lambda shape: math.prod(shape) > 1)
#: Every gate over metrics, as lenient as one can be.
LENIENT = (
    ("max_abs", "<=", math.inf),
    ("sqnr_db", ">=", -math.inf),
    ("cosine", ">=", -1.0),
    ("top1_agreement", ">=", 0.0),
    ("max_lsb", "<=", math.inf),
)


def list_passed(metrics: Metrics) -> Iterator[str]:
    """The gates that these metrics pass."""
    for name, comparison, bound in LENIENT:
        if check(name, "m", getattr(metrics, name), bound, comparison).passed is not False:  # type: ignore[arg-type]
            yield name


def refuse_to_pass(reference: Array, output: Array) -> None:
    """Raise if a gate passes, or no reason is given; without ``assert``, which -O removes."""
    for metrics in compare_every_way(reference, output):
        passed = list(list_passed(metrics))
        if passed or not metrics.degenerate:
            raise ValueError(f"{passed or 'no reason'}: {reference!r} and {output!r}")


def compare_every_way(reference: Array, output: Array) -> Iterator[Metrics]:
    yield compare_outputs(reference, output, 0.1)
    if reference.shape == output.shape and len(reference) > 1:  # as two shards
        parts = [sum_outputs(reference[part], output[part]) for part in (slice(0, 1), slice(1, None))]
        yield finish(merge_sums(*parts))


@st.composite
def make_pair(draw: st.DrawFn) -> tuple[Array, Array]:
    """A pair of outputs with one thing wrong: values, sizes, or that one of them does not vary."""
    kind = draw(st.sampled_from(("not finite", "empty", "constant", "shape", "one answer", "type")))
    shape, width = draw(SHAPES), np.dtype(draw(st.sampled_from(TYPES)))
    numbers = st.floats(-100, 100, width=min(width.itemsize * 8, 64))  # type: ignore[arg-type]
    reference = draw(hnp.arrays(width, shape, elements=numbers))
    reference.flat[0], reference.flat[1] = 1, 2  # it is no constant itself
    output = reference + width.type(draw(st.sampled_from((0, 1))))
    if kind == "not finite":
        places = draw(st.lists(st.integers(0, reference.size - 1), min_size=1, max_size=4))
        bad = draw(st.sampled_from((math.nan, math.inf, -math.inf)))
        for array in draw(st.sampled_from(([output], [reference], [reference, output]))):
            array.flat[places] = bad
    elif kind == "empty":
        reference, output = (np.zeros((*shape[:-1], 0), width) for _ in range(2))
    elif kind == "constant":
        output = np.full_like(reference, draw(numbers))
        reference = output if draw(st.booleans()) else reference
    elif kind == "shape":
        extra = draw(st.sampled_from((reference.ravel()[:-1], reference[None], reference.repeat(2, 0), reference[0])))
        output = extra if extra.shape != reference.shape else np.zeros(0)
    elif kind == "one answer":
        reference = np.stack([reference, reference + width.type(1)])
        return reference, np.stack([output, output])  # a network's answers vary; the reference's may not
    else:
        output = output.astype(draw(st.sampled_from((complex, object, str))))
    return draw(st.permutations((reference, output)))  # type: ignore[return-value]


def try_pairs(count: int) -> Callable[[], None]:
    """A test that tries so many pairs."""

    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(make_pair())
    def try_one(pair: tuple[Array, Array]) -> None:
        refuse_to_pass(*pair)

    return try_one


def test_no_pair_that_cannot_be_compared_passes_a_gate() -> None:
    try_pairs(300)()


@pytest.mark.sweep
def test_none_of_ten_thousand_pairs_that_cannot_be_compared_passes_a_gate() -> None:
    try_pairs(10_000)()


@pytest.mark.slow
@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.sweep)])
def test_none_passes_where_assertions_are_switched_off(count: int) -> None:
    argv = [sys.executable, "-O", "-c", f"import sys; sys.path[:] = {sys.path!r}; exec(open({__file__!r}).read())"]
    done = subprocess.run([*argv, str(count)], capture_output=True, text=True, check=False, timeout=900)
    assert (done.returncode, done.stdout) == (0, f"{count} tried, assertions off\n"), done.stderr[-2000:]


def test_a_difference_whose_square_vanishes_is_no_equality() -> None:
    refuse_to_pass(np.array([[1e-200, 2e-200]]), np.array([[2e-200, 1e-200]]))
    assert compare_outputs([[1e-200, 2e-200]], [[1e-200, 2e-200]]).sqnr_db == math.inf


def test_a_difference_that_overflows_is_no_number() -> None:
    refuse_to_pass(np.array([[1.7e308, 1.0]]), np.array([[-1.7e308, 1.0]]))


NUMBERS = st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from((0.0, math.nan, math.inf, -math.inf, 1.0))


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 100))
@settings(deadline=None)
def test_no_ratio_of_times_passes_without_numbers(value: float, low: float, high: float, budget: float, n: int) -> None:
    ratio = Interval(value=value, low=low, high=high, n=n, confidence=0.95)
    gates: tuple[Check, ...] = (judge_ratio(ratio, 0.05, budget, "time", "m"), judge_control(ratio, 0.05, "m"))
    whole = all(math.isfinite(one) and one > 0 for one in (value, low, high))
    for gate in gates:
        if not whole or n < 11 or (gate is gates[0] and not budget > 0):
            assert gate.passed is None and gate.note
    assert 0 <= compute_p_value(ratio, budget) <= 1


@given(st.lists(st.sampled_from((0, -1, math.nan, math.inf, 5)), max_size=20).filter(lambda x: not x or set(x) != {5}))
def test_times_that_are_none_have_no_ratio(times: list[float]) -> None:
    ratio = estimate_ratio([5] * len(times), times)
    assert judge_ratio(ratio, 0.05, 1.0, "time", "m").passed is None


@pytest.mark.parametrize("name", Budgets.__struct_fields__)
def test_a_budget_that_is_no_number_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be a number"):
        Budgets(**{name: math.nan})


def narrows(test: ast.expr) -> bool:
    """Whether an assertion only tells the type checker what is so: it may be removed, and what follows still fails."""
    if isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        return all(map(narrows, test.values))
    if isinstance(test, ast.Call):
        return isinstance(test.func, ast.Name) and test.func.id == "isinstance"
    return isinstance(test, ast.Compare) and ast.unparse(test).endswith("is not None")


def test_no_assertion_in_the_package_guards_anything() -> None:
    package = Path(mbdeploy.__file__).parent
    guards = [
        f"{path.relative_to(package)}:{node.lineno}"
        for path in sorted(package.rglob("*.py"))
        if "_share" not in path.parts
        and path.name not in ("testing.py", "pytest_plugin.py")  # whose tests are assertions
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert) and not narrows(node.test)
    ]
    assert guards == []


if __name__ == "__main__":
    try_pairs(int(sys.argv[1]))()
    print(f"{sys.argv[1]} tried, assertions {'on' if __debug__ else 'off'}")  # noqa: T201
