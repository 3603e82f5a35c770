"""A new file against another version: noise and classes in pairs, and where the other version lies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mbdeploy.estimate import Interval
from mbdeploy.gating.report import Gate
from mbdeploy.gating.versions import (
    compare_pair,
    find_version,
    judge_latency,
    judge_outputs,
    list_changes,
    refuse_baseline,
)
from mbdeploy.results import Check
from mbdeploy.stages.facts import LatencyFact, LatencyFacts

RNG = np.random.default_rng(0)
EXPECTED = RNG.normal(size=(200, 5))
NOISE = RNG.normal(size=(200, 5))


def judge(before: NDArray[Any], now: NDArray[Any]) -> dict[str, Gate]:
    return {
        gate.check.name: gate
        for gate in judge_outputs("tiny", "cpu", "int8 on cpu", compare_pair(EXPECTED, before, now))
    }


def test_the_same_outputs_pass_even_where_nothing_is_lost() -> None:
    for output in (EXPECTED, EXPECTED + 0.1 * NOISE):
        gates = judge(output, output)
        assert [gate.check.passed for gate in gates.values()] == [True, True]
        assert gates["baseline_sqnr_db"].check.value == 0.0


def test_twice_the_noise_fails_and_half_of_it_passes() -> None:
    quiet, loud = EXPECTED + 0.1 * NOISE, EXPECTED + 0.2 * NOISE
    worse, better = judge(quiet, loud)["baseline_sqnr_db"], judge(loud, quiet)["baseline_sqnr_db"]
    assert worse.check.value == pytest.approx(-20 * math.log10(2))
    assert worse.check.passed is False and worse.p_value is not None and worse.p_value < 1e-6
    assert better.check.passed is True and better.p_value is not None and better.p_value > 0.99


def test_a_loss_that_one_image_makes_is_inconclusive() -> None:
    now = EXPECTED + 0.1 * NOISE
    now[0] += 1.0
    gate = judge(EXPECTED + 0.1 * NOISE, now)["baseline_sqnr_db"]
    assert gate.check.value < -0.5 and gate.check.passed is None
    assert "200 images cannot tell" in gate.check.note


@pytest.mark.parametrize(("lost", "passed"), [(1, True), (4, None), (8, False)])
def test_classes_are_counted_in_pairs_of_images(lost: int, passed: bool | None) -> None:
    now = EXPECTED.copy()
    now[:lost] = -now[:lost]  # the best class becomes the worst
    gate = judge(EXPECTED, now)["baseline_top1"]
    assert gate.check.value == pytest.approx(-lost / 200)
    assert gate.check.passed is passed
    assert gate.check.note == f"0 images won, {lost} lost of 200"


def test_nan_fails_whichever_version_it_is_in() -> None:
    broken = np.full_like(EXPECTED, np.nan)
    for pair in ((EXPECTED, broken), (broken, EXPECTED)):
        gates = judge(*pair)
        assert list(gates) == ["baseline_sqnr_db"]
        assert gates["baseline_sqnr_db"].check.passed is False
        assert "non-finite" in gates["baseline_sqnr_db"].check.note


def test_changes_are_the_figures_of_both_and_the_distance_between_them() -> None:
    noise, classes = list_changes("cpu", compare_pair(EXPECTED, EXPECTED, EXPECTED + 0.1 * NOISE))
    assert (noise.figure, noise.before) == ("SQNR", "equal")
    assert noise.now.endswith(" dB") and "the same class on" in noise.note
    assert classes.before == "100.0 %"


def latency(control: bool | None) -> LatencyFacts:
    from mbdeploy.derive import Latency

    times = Latency(n=100, p50_ns=1e6, p90_ns=None, p95_ns=None, p99_ns=None, images_per_s=1000.0)
    ratios = (None, Interval(value=1.3, low=1.29, high=1.31, n=100, confidence=0.95))
    models = tuple(
        LatencyFact(
            model=name,
            provider="cpu",
            threads=1,
            batch_size=1,
            clock="cpu",
            ratio=ratio,
            wall=times,
            cpu=times,
            load_ns=1,
            first_ns=1,
            peak_bytes=1,
            loaded_bytes=1,
            base_bytes=1,
        )
        for name, ratio in zip(("simplified", "int8"), ratios, strict=True)
    )
    check = Check(name="A/A control", subject="", value=0.0, bound=0.05, comparison="<=", passed=control)
    one = Interval(value=1.0, low=0.99, high=1.01, n=100, confidence=0.95)
    return LatencyFacts(models=models, control=one, checks=(check,), cpu="", isa=(), inputs="")


@pytest.mark.parametrize(("control", "passed"), [(True, False), (False, None), (None, None)])
def test_time_is_judged_only_where_the_control_passed(control: bool | None, passed: bool | None) -> None:
    gate, own = judge_latency(
        "tiny", latency(control), index=1, budget=1.0, tolerance=0.05, name="latency_ratio", key="latency_ratio"
    )
    assert (gate.rule, gate.budget, gate.check.passed) == ("MB405", "latency_ratio", passed)
    assert (own.rule, own.check.passed, own.p_value) == ("MB406", control, None)


def test_the_other_version_is_the_folder_or_the_card_s_folder_in_it(tmp_path: Path) -> None:
    assert find_version(tmp_path, "tiny") is None
    (tmp_path / "int8.onnx").touch()
    assert find_version(tmp_path, "tiny") == tmp_path / "int8.onnx"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "int8.onnx").touch()
    assert find_version(tmp_path, "tiny") == tmp_path / "tiny" / "int8.onnx"
    assert "--baseline" in str(refuse_baseline(tmp_path))
