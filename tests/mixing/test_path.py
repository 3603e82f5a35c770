"""The order in which layers go to float."""

from __future__ import annotations

import math

import pytest

from mbdeploy.estimate import Interval
from mbdeploy.mixing.path import measure_gain, rank_faster, rank_helpful, weigh
from mbdeploy.mixing.report import Effect, Move


def make_effect(name, ratio, spared_db, *, width=0.005, layers=None):
    return Effect(
        move=Move(name=name, kind="layer", layers=tuple(layers or (name,))),
        ratio=Interval(value=ratio, low=ratio - width, high=ratio + width, n=40, confidence=0.95),
        spared_db=spared_db,
        alone_db=30.0,
    )


def names(effects):
    return [effect.move.name for effect in effects]


def test_what_saves_most_time_for_sure_comes_first():
    effects = [
        make_effect("slow", 1.1, 30),
        make_effect("fast", 0.95, 10),
        make_effect("faster", 0.9, 10),
        make_effect("perhaps", 0.8, 10, width=0.3),
    ]
    assert names(rank_faster(effects, ())) == ["faster", "fast"]


def test_accuracy_is_bought_where_it_costs_least_time():
    # One takes off half of the noise for 10 % more time, the other a fifth of it for 1 %.
    dear, cheap = make_effect("dear", 1.1, 23.0103), make_effect("cheap", 1.01, 20.9691)
    assert measure_gain(23.0103, 20.0) == pytest.approx(0.5, abs=1e-4)
    assert weigh(dear, 23.0103, 20.0) == pytest.approx(5, abs=1e-2)
    assert weigh(cheap, 20.9691, 20.0) == pytest.approx(20, abs=1e-2)
    assert names(rank_helpful([dear, cheap], (), 20.0)) == ["cheap", "dear"]


def test_accuracy_that_costs_no_time_is_not_worth_endlessly_much():
    free = make_effect("free", 0.99, 20.9691)
    assert weigh(free, 20.9691, 20.0) == pytest.approx(100, abs=0.1)  # as if it cost 0.2 %


def test_a_move_whose_layers_are_in_float_already_is_not_chosen_again():
    both = make_effect("both", 0.9, 30, layers=("a", "b"))
    assert rank_faster([both], ("b", "a", "c")) == rank_helpful([both], ("b", "a", "c"), 20.0) == []
    assert names(rank_faster([both], ("a",))) == ["both"]


def test_a_move_that_adds_noise_or_has_no_figure_is_not_bought():
    effects = [make_effect("worse", 1.0, 19.0), make_effect("unknown", 1.0, math.nan)]
    assert rank_helpful(effects, (), 20.0) == []
    assert measure_gain(19.0, 20.0) < 0 and measure_gain(math.nan, 20.0) == -1
