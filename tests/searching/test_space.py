"""Which variants there are, and which of them lie far apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbdeploy.errors import CardError, UsageError
from mbdeploy.searching.space import list_points, spread_points


def test_every_card_meets_every_width_and_size_once() -> None:
    points = list_points(["mobilenet_v1_025", "mobilenet_v1", "mobilenet_v2"], (0.25, 0.5), (96, 128))
    places = [(point.family, point.alpha, point.size) for point in points]
    grid = [(alpha, size) for alpha in (0.25, 0.5) for size in (96, 128)]
    assert places == [(family, *place) for family in (0, 2) for place in grid]
    assert len({point.variant.name for point in points}) == 8


def test_points_far_apart_are_the_corners_first() -> None:
    points = list_points(["mobilenet_v1"], (0.25, 0.5, 1.0), (96, 128, 160, 224))
    taken = spread_points(points, 4)
    assert (taken[0].alpha, taken[0].size) == (1.0, 224)
    assert {(point.alpha, point.size) for point in taken} == {(1.0, 224), (0.25, 96), (1.0, 96), (0.25, 224)}
    assert len(spread_points(points, 99)) == 12 and spread_points([], 3) == []


def test_every_family_is_among_the_first() -> None:
    points = list_points(["mobilenet_v1", "mobilenet_v2"], (0.5, 1.0), (96, 128))
    assert {point.family for point in spread_points(points, 2)} == {0, 1}


def test_a_space_that_nobody_counts_is_refused() -> None:
    with pytest.raises(UsageError, match="1000 variants at most, found 1200"):
        list_points(["mobilenet_v1"], [n / 10 for n in range(1, 41)], range(32, 62))


def test_an_unknown_card_and_one_that_is_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="no such card"):
        list_points(["nonsense"], (), ())
    (tmp_path / "file.toml").write_text(
        'name = "file"\nsummary = ""\nweights = { file = "m.onnx", sha256 = "00" }\npreprocess = { size = 32 }\n'
    )
    with pytest.raises(UsageError, match="a card with a net, whose layers can be counted"):
        list_points([str(tmp_path / "file.toml")], (), ())


def test_two_cards_of_one_name_are_refused(tmp_path: Path) -> None:
    text = (
        'name = "same"\nsummary = ""\nnet = "mobilenet_v1"\nweights = {{ seed = {} }}\npreprocess = {{ size = 32 }}\n'
    )
    paths = []
    for seed in (1, 2):
        paths.append(str(tmp_path / f"{seed}.toml"))
        Path(paths[-1]).write_text(text.format(seed))
    with pytest.raises(UsageError, match="same: expected variants of different names"):
        list_points(paths, (), ())
