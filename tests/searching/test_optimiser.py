"""What Optuna's sampler is told, and that it never proposes twice."""

from __future__ import annotations

import sys

import pytest

from mbdeploy.errors import UnavailableError
from mbdeploy.searching.optimiser import Optimiser
from mbdeploy.searching.space import Point, list_points


@pytest.fixture(scope="module")
def points() -> list[Point]:
    return list_points(["mobilenet_v1", "mobilenet_v2"], (0.25, 0.5, 0.75, 1.0), (96, 128, 160, 192))


def ask_all(points: list[Point], seed: int) -> list[str]:
    """Every proposal, each worth more the nearer it is to width 0.5 and 160 pixels."""
    optimiser, names = Optimiser(points, seed), []
    while (point := optimiser.ask()) is not None:
        names.append(point.variant.name)
        optimiser.tell(point, 1 - abs(point.alpha - 0.5) - abs(point.size - 160) / 160)
    return names


def test_every_variant_is_proposed_once_and_then_none(points: list[Point]) -> None:
    names = ask_all(points, 0)
    assert sorted(names) == sorted(point.variant.name for point in points)


def test_the_same_seed_proposes_the_same(points: list[Point]) -> None:
    assert ask_all(points, 3)[:8] == ask_all(points, 3)[:8]


def test_what_was_told_or_given_is_not_proposed(points: list[Point]) -> None:
    optimiser = Optimiser(points[:3], 0)
    optimiser.tell(points[0], 0.5)
    assert {point.variant.name for point in (optimiser.ask(), optimiser.ask()) if point} == {
        points[1].variant.name,
        points[2].variant.name,
    }
    assert optimiser.ask() is None


def test_without_optuna_one_line_says_how_to_get_it(points: list[Point], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UnavailableError, match=r"run `pip install mbdeploy\[search\]`") as told:
        Optimiser(points, 0)
    assert told.value.exit_code == 3
