"""One word for a search: from times of several processes and what was asked, and never from noise."""

from __future__ import annotations

import math

import msgspec
import pytest
from hosts import HOST
from runs import make_bench, make_series

from mbdeploy.mixing.report import Goals, MixReport
from mbdeploy.mixing.verdict import is_refused, judge_mix, judge_search
from mbdeploy.results import ModelRef

STEADY = (1.0, 1.001, 0.999, 1.0, 1.0)
FASTER, SLOWER = (tuple(share * one for one in STEADY) for share in (0.6, 1.1))
#: Processes that do not agree: the interval of their mean is far wider than the tolerance, and holds 1.
UNSTEADY = (0.7, 1.3, 0.8, 1.2, 1.0)
#: All around 1, closer than the tolerance.
EVEN = (0.99, 1.01, 0.985, 1.005, 0.99)


def make_run(shares, *, control=STEADY):
    """Five processes of ten pairs: FP32 takes 1 ms, the mix ``shares`` of that, FP32 once more ``control``."""
    series = [time_processes(name, one) for name, one in (("float", (1.0,) * 5), ("int8", shares), ("float", control))]
    return make_bench(*series[:2], control=series[2], min_duration_s=2.0, inputs="photos", processes=5)


def time_processes(name, shares):
    times = [round(1e6 * share) for share in shares for _ in range(10)]
    return make_series(refer(name), times, process=tuple(process for process in range(5) for _ in range(10)))


def refer(name):
    return ModelRef(name=name, path=f"{name}.onnx", sha256="0", size_bytes=1)


def make_report(goals, made, *, final=True):
    """A search whose mixes were made in full: (mix, run) in this order; the last one was written if ``final``."""
    mixes = tuple(mix for mix, _ in made)
    return MixReport(
        model=refer("float"),
        provider="cpu",
        threads=1,
        host=HOST,
        data="photos",
        images=64,
        labelled=False,
        held_out=True,
        goals=goals,
        effects=(),
        mixes=mixes,
        made=mixes,
        chosen=mixes[-1].name if final else None,
        reason="",
        final=mixes[-1] if final else None,
        checks=(),
        timed={mix.name: run for mix, run in made},
    )


@pytest.mark.parametrize(
    ("run", "answer", "said"),
    [
        (make_run(FASTER), "ship", "0.600 [0.599, 0.601] of optimised FP32's cpu time"),
        (make_run(SLOWER), "don't ship", "no gain: 1.100"),
        (make_run(FASTER, control=UNSTEADY), "inconclusive", "the A/A control did not pass"),
        (make_run(SLOWER, control=(1.2,) * 5), "inconclusive", "the A/A control did not pass"),
        (make_run(UNSTEADY), "inconclusive", "wider than the tolerance"),
        (make_run(EVEN), "inconclusive", "no gain shown"),
    ],
)
def test_the_word_follows_from_how_processes_differ_and_the_control(make_mix, run, answer, said):
    mix = make_mix("a", 0.5, 25.0)  # one process's estimate has no say
    verdict = judge_search(make_report(Goals(min_sqnr=20.0), [(mix, run)]))
    assert verdict.answer == answer
    assert any(said in reason for reason in verdict.reasons)
    assert is_refused(judge_mix(mix, run, Goals())) == (answer == "don't ship")


def test_all_reasons_are_told_the_worst_first(make_mix):
    goals = Goals(max_drop=0.5, min_sqnr=30.0)
    verdict = judge_search(make_report(goals, [(make_mix("a", 0.6, 25.0, drop=0.3), make_run(FASTER))]))
    assert verdict.answer == "don't ship"
    assert verdict.reasons == (
        "sqnr_db 25, not >= 30",
        "top-1 drop 0.3, not surely <= 0.5: up to 0.8 with 95 % confidence; more images would tell",
        "0.600 [0.599, 0.601] of optimised FP32's cpu time",
    )


@pytest.mark.parametrize(("target", "passed"), [(0.61, True), (0.6, None), (0.59, False)])
def test_a_target_that_the_interval_holds_is_inconclusive(make_mix, target, passed):
    checks = judge_mix(make_mix("a", 0.5, 25.0), make_run(FASTER), Goals(target_ratio=target))
    assert [check.passed for check in checks] == [True, True, passed]


def test_noise_misses_no_target(make_mix):
    checks = judge_mix(make_mix("a", 0.5, 25.0), make_run(UNSTEADY), Goals(target_ratio=0.5))
    assert [check.passed for check in checks] == [True, None, None]


def test_no_figure_passes_no_check(make_mix):
    broken = make_mix("a", math.nan, math.nan, drop=math.nan)
    run = make_run(FASTER)
    run = msgspec.structs.replace(run, series=(run.series[0], msgspec.structs.replace(run.series[1], cpu_ns=(0,) * 50)))
    goals = Goals(max_drop=0.5, min_sqnr=20.0, target_ratio=0.9)
    assert [check.passed for check in judge_mix(broken, run, goals)] == [True, None, None, False, False]
    # without any goal for accuracy outputs that cannot be compared are refused as well
    assert is_refused(judge_mix(broken, make_run(FASTER), Goals(target_ratio=0.9)))


def test_where_every_mix_was_refused_what_refused_each_is_told(make_mix):
    made = [
        (make_mix("a", 0.6, 15.0), make_run(FASTER)),
        (make_mix("b", 0.9, 25.0), make_run(SLOWER)),
    ]
    verdict = judge_search(make_report(Goals(min_sqnr=20.0), made, final=False))
    assert verdict.answer == "don't ship"
    assert verdict.reasons[0] == "a: sqnr_db 15, not >= 20"
    assert verdict.reasons[1].startswith("b: no gain: 1.100") and len(verdict.reasons) == 2


def test_without_a_full_run_nothing_is_known(make_mix):
    report = msgspec.structs.replace(make_report(Goals(), [(make_mix("a", 0.5, 25.0), make_run(FASTER))]), timed={})
    assert judge_search(report).answer == "inconclusive"
