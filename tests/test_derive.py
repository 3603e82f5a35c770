"""What is said of saved results: gates that doubt before they judge, accuracies that can be counted by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hosts import HOST
from runs import make_bench, make_series

from mbdeploy import derive
from mbdeploy.derive import (
    choose_clock,
    compare_predictions,
    compare_series,
    estimate_accuracy,
    estimate_time,
    is_decided,
    join_verdicts,
    judge_control,
    judge_gain,
    judge_ratio,
    judge_run,
    settle_verdict,
    summarise_latency,
)
from mbdeploy.estimate import Interval
from mbdeploy.results import BenchRun, Check, EvalReport, Evaluated, ModelRef, Placement, Prediction, Series


def make_ref(name: str) -> ModelRef:
    return ModelRef(name=name, path=name, sha256="0", size_bytes=1)


def time_file(name: str, wall: list[int], cpu: list[int] | None = None) -> Series:
    return make_series(make_ref(name), wall, cpu_ns=tuple(cpu or wall), peak_bytes=3, loaded_bytes=2)


def make_run(*series: Series, control: Series, threads: int = 1, tolerance: float = 0.05) -> BenchRun:
    return make_bench(*series, control=control, threads=threads, batch_size=2, tolerance=tolerance)


def interval(value: float, low: float, high: float, n: int = 100) -> Interval:
    return Interval(value=value, low=low, high=high, n=n, confidence=0.95)


@pytest.mark.parametrize(
    ("ratio", "budget", "passed"),
    [
        (interval(1.00, 0.99, 1.01), 1.0, True),
        (interval(1.04, 1.03, 1.05), 1.0, True),
        (interval(1.20, 1.19, 1.21), 1.0, False),
        (interval(0.60, 0.59, 0.61), 1.0, True),
        (interval(1.06, 1.03, 1.08), 1.0, False),
        (interval(1.20, 0.90, 1.50), 1.0, None),
        (interval(0.80, 0.79, 0.81), 0.75, False),
        (interval(0.77, 0.76, 0.78), 0.75, True),
        (interval(1.20, 1.19, 1.21, n=10), 1.0, None),
        (interval(float("nan"), float("nan"), float("nan")), 1.0, None),
    ],
)
def test_a_ratio_fails_only_beyond_tolerance_and_doubt(ratio: Interval, budget: float, passed: bool | None) -> None:
    gate = judge_ratio(ratio, 0.05, budget, "cpu time ratio", "int8 on cpu")
    assert gate.passed is passed
    assert gate.bound == pytest.approx(budget * 1.05)
    assert (passed is None) == bool(gate.note)


def test_a_ratio_whose_interval_holds_its_budget_does_not_fail() -> None:
    assert judge_ratio(interval(1.06, 0.999, 1.051), 0.05, 1.0, "n", "s").passed is True
    assert judge_ratio(interval(1.06, 1.001, 1.053), 0.05, 1.0, "n", "s").passed is False


@pytest.mark.parametrize(
    ("ratio", "passed"),
    [(interval(0.99, 0.98, 1.0), True), (interval(0.90, 0.89, 0.91), False), (interval(1.0, 0.9, 1.1), None)],
)
def test_the_control_fails_on_either_side(ratio: Interval, passed: bool | None) -> None:
    assert judge_control(ratio, 0.05, "fp32 on cpu").passed is passed


def test_every_candidate_is_judged_against_the_baseline_if_the_control_holds() -> None:
    steady = [100] * 40
    run = make_run(
        time_file("fp32", steady),
        time_file("int8", [70] * 40),
        time_file("slow", [120] * 40),
        control=time_file("fp32", steady),
    )
    control, int8, slow = judge_run(run)
    assert (control.name, control.passed, control.value) == ("A/A control", True, 0)
    assert (int8.subject, int8.passed, int8.value) == ("int8 on cpu", True, 0.7)
    assert (slow.subject, slow.passed, slow.value) == ("slow on cpu", False, 1.2)
    assert judge_run(run, budgets={"int8": 0.5})[1].passed is False


def test_no_gate_is_decided_on_a_machine_where_the_same_model_differs_from_itself() -> None:
    run = make_run(time_file("fp32", [100] * 40), time_file("slow", [150] * 40), control=time_file("fp32", [120] * 40))
    control, slow = judge_run(run)
    assert control.passed is False
    assert slow.passed is None and "control" in slow.note


def test_one_thread_is_judged_by_cpu_time_and_several_by_the_wall() -> None:
    first, second = time_file("a", [100] * 20, [10] * 20), time_file("b", [200] * 20, [10] * 20)
    alone, pool = make_run(first, second, control=first), make_run(first, second, control=first, threads=2)
    assert (choose_clock(alone), choose_clock(pool)) == ("cpu", "wall")
    assert (compare_series(alone, 1).value, compare_series(pool, 1).value) == (1, 2)
    assert compare_series(alone, 1, "wall").value == 2
    assert compare_series(alone, -1).value == 1


def test_a_latency_has_only_the_percentiles_that_its_samples_carry() -> None:
    found = summarise_latency(time_file("a", list(range(1_000_000, 1_000_100))), batch_size=4)
    assert (found.n, found.p50_ns, found.p90_ns, found.p95_ns, found.p99_ns) == (100, 1_000_049, 1_000_089, None, None)
    assert found.images_per_s == pytest.approx(4 / 1.000049e-3)
    assert summarise_latency(time_file("a", [1, 2]), batch_size=1).images_per_s is None


def test_a_typical_time_is_the_median_of_one_process_and_the_mean_of_those_of_several() -> None:
    series = time_file("a", [2_000_000] * 20)
    alone = estimate_time(make_run(series, control=series), 0)
    assert (alone.value, alone.low, alone.high, alone.n) == (2.0, 2.0, 2.0, 20)
    spread = msgspec.structs.replace(time_file("a", [1_000_000] * 10 + [4_000_000] * 10), process=(0,) * 10 + (1,) * 10)
    found = estimate_time(make_run(spread, control=spread), 0)
    assert found.value == pytest.approx(2.0)
    assert found.low < 1.0 and found.high > 4.0


def make_report(*tops: list[tuple[int, ...]], labels: list[int], background: bool = False) -> EvalReport:
    models = tuple(
        Evaluated(
            model=make_ref(f"m{index}"),
            provider="cpu",
            predictions=tuple(
                Prediction(name=str(image), label=label, top=ranked)
                for image, (label, ranked) in enumerate(zip(labels, ranking, strict=True))
            ),
            placement=Placement(nodes={}, operators={}),
        )
        for index, ranking in enumerate(tops)
    )
    return EvalReport(data="d", data_digest="0", classes=5, background=background, models=models, metrics=(), host=HOST)


def test_accuracy_counts_labels_among_the_first_k() -> None:
    report = make_report([(0, 1), (2, 1), (3, 4), (1, 0)], labels=[0, 1, 2, 1])
    assert (estimate_accuracy(report, 0).value, estimate_accuracy(report, 0).n) == (0.5, 4)
    assert estimate_accuracy(report, 0, k=2).value == 0.75


def test_a_background_class_shifts_every_label_by_one() -> None:
    tops = [(1, 0), (2, 3), (2, 3)]
    assert estimate_accuracy(make_report(tops, labels=[0, 1, 2], background=True), 0).value == pytest.approx(2 / 3)
    assert estimate_accuracy(make_report(tops, labels=[0, 1, 2]), 0).value == pytest.approx(1 / 3)


def test_changed_predictions_are_counted_with_what_they_gained_and_lost() -> None:
    labels = [0, 0, 0, 0, 0]
    report = make_report([(0,), (0,), (1,), (2,), (1,)], [(0,), (1,), (0,), (3,), (1,)], labels=labels)
    found = compare_predictions(report, 1)
    assert (found.n, found.changed, found.gained, found.lost) == (5, 3, 1, 1)
    assert found.difference.value == 0 and found.p_value == 1


def test_the_same_run_gives_the_same_verdicts_again() -> None:
    rng = np.random.default_rng(0)
    noisy = [int(value) for value in rng.normal(1e6, 1e4, 60)]
    other = [int(value) for value in rng.normal(1.01e6, 1e4, 60)]
    run = make_run(time_file("a", noisy), time_file("b", other), control=time_file("a", noisy[::-1]))
    saved = msgspec.json.decode(msgspec.json.encode(run), type=BenchRun)
    assert judge_run(saved) == judge_run(run)
    assert derive.compare_series(saved, 1).low < 1.01 < derive.compare_series(saved, 1).high


def test_a_run_saved_before_processes_were_counted_is_one_process() -> None:
    rng = np.random.default_rng(0)
    noisy = [int(value) for value in rng.normal(1e6, 1e4, 60)]
    run = make_run(time_file("a", noisy), time_file("b", noisy[::-1]), control=time_file("a", noisy))
    plain = msgspec.to_builtins(run)
    for key in ("processes", "max_duration_s", "cool_down_s"):
        del plain[key]
    for series in (*plain["series"], plain["control"]):
        for key in ("process", "loads_ns", "firsts_ns", "energy_uj", "energy_runs"):
            del series[key]
    old = msgspec.convert(plain, BenchRun, strict=False)
    assert old == run and old.processes == 1
    assert derive.compare_series(old, 1).low < derive.compare_series(old, 1).high


def test_processes_decide_the_interval_and_the_interval_decides_whether_there_is_a_verdict() -> None:
    def spread(medians: list[int]) -> BenchRun:
        processes = tuple(number for number in range(len(medians)) for _ in range(5))
        base, other = time_file("a", [1000] * len(processes)), time_file("b", [medians[k] for k in processes])
        series = tuple(msgspec.structs.replace(one, process=processes) for one in (base, other))
        return make_run(*series, control=series[0])

    steady, moody = spread([1100, 1101, 1099, 1100, 1100]), spread([1100, 1200, 1000, 1100, 1100])
    assert derive.is_decided(steady) and not derive.is_decided(moody)
    assert [check.passed for check in judge_run(steady)] == [True, False]
    assert [check.passed for check in judge_run(moody)] == [True, None]
    assert "wider than the tolerance" in judge_run(moody)[1].note


@pytest.mark.parametrize(
    ("low", "high", "control", "gate", "answer"),
    [
        (0.90, 0.99, True, True, "ship"),
        (0.90, 1.00, True, True, "inconclusive"),
        (1.00, 1.02, True, True, "don't ship"),
        (0.99, 1.02, True, False, "inconclusive"),
        (0.90, 0.99, True, None, "inconclusive"),
        (1.10, 1.12, True, None, "inconclusive"),
        (0.90, 0.99, False, True, "inconclusive"),
        (1.10, 1.12, None, False, "inconclusive"),
    ],
)
def test_a_gain_is_believed_only_from_an_interval_below_one_and_a_run_that_can_be(low, high, control, gate, answer):
    def check(passed):
        return Check(name="", subject="", value=1.0, bound=1.0, comparison="<=", passed=passed)

    ratio = Interval(value=(low + high) / 2, low=low, high=high, n=50, confidence=0.95)
    assert judge_gain(ratio, "cpu", check(control), check(gate))[0] == answer
    assert judge_gain(ratio, "cpu", None, check(gate))[0] == "inconclusive"


def test_the_worst_finding_is_the_verdict_and_its_reasons_come_first():
    found = settle_verdict("m", "cpu", [("ship", "a"), ("don't ship", "b"), ("inconclusive", "c"), ("don't ship", "d")])
    assert (found.answer, found.reasons) == ("don't ship", ("b", "d", "c", "a"))


def test_where_one_series_ran_on_a_device_the_wall_clock_counts() -> None:
    here, there = time_file("a", [100] * 20, [10] * 20), time_file("b", [200] * 20, [10] * 20)
    there = msgspec.structs.replace(there, session={"device": "cuda"})
    for first, second in ((here, there), (there, here)):
        assert choose_clock(make_run(first, second, control=first)) == "wall"


def test_every_percentile_is_its_own() -> None:
    found = summarise_latency(time_file("a", list(range(1, 1001))), batch_size=4)
    assert (found.p50_ns, found.p90_ns, found.p95_ns, found.p99_ns) == (500, 900, 950, 990)
    assert summarise_latency(time_file("a", [2_000_000] * 64), batch_size=4).images_per_s == 2000.0


def test_a_run_is_decided_once_the_control_and_every_candidate_are() -> None:
    steady, wild = time_file("a", [100] * 40), time_file("b", [50, 150] * 20)
    assert is_decided(make_run(steady, steady, steady, control=steady))
    assert not is_decided(make_run(steady, steady, steady, control=wild))
    assert not is_decided(make_run(steady, wild, steady, control=steady))
    assert not is_decided(make_run(steady, steady, wild, control=steady))


def test_the_clock_that_is_asked_for_judges() -> None:
    first, second = time_file("a", [100] * 20, [10] * 20), time_file("b", [200] * 20, [10] * 20)
    run = make_run(first, second, control=first)
    assert [(check.name, check.value, check.note) for check in judge_run(run, clock="wall")][1] == (
        "wall time ratio",
        2.0,
        "",
    )
    assert judge_run(run)[1].name == "cpu time ratio"


def test_bounds_belong_to_what_they_bound() -> None:
    assert judge_ratio(interval(1.5, 1.25, 1.5), 0.5, 1.0, "n", "s").passed is True  # as large as may be
    assert judge_ratio(interval(1.75, 1.0, 1.75), 0.5, 1.0, "n", "s").passed is True  # the interval ends at the budget
    assert judge_ratio(interval(1.0, 0.75, 1.25), 0.5, 1.0, "n", "s").note == ""  # as wide as may be
    assert judge_ratio(interval(1.0, 1.0, 1.0, n=11), 0.5, 1.0, "n", "s").passed is True  # as few as may be
    control = judge_control(interval(1.5, 1.5, 1.5), 0.5, "s")
    assert (control.passed, control.value, control.note) == (True, 0.5, "")


@pytest.mark.parametrize(
    "ratio", [interval(0.0, 0.001, 0.01), interval(float("inf"), 1.0, 1.01), interval(1.0, 0.0, 1.01)]
)
def test_times_without_a_ratio_decide_nothing(ratio: Interval) -> None:
    assert judge_ratio(ratio, 2.0, 1.0, "n", "s").note == "times that have no ratio"


def test_a_budget_of_nothing_holds_no_time() -> None:
    gate = judge_ratio(interval(1.0, 1.0, 1.0), 0.05, 0.0, "n", "s")
    assert gate.passed is None and gate.note == "a budget of 0.0, which no time can be held to"


def test_a_control_that_fails_says_why_and_one_that_passes_says_nothing() -> None:
    assert judge_control(interval(0.9, 0.9, 0.9), 0.05, "s").note == (
        "the same model differs from itself: this machine is too unsteady for a verdict"
    )
    assert judge_control(interval(1.0, 1.0, 1.0), 0.05, "s").note == ""


def test_one_finding_alone_is_the_verdict() -> None:
    assert settle_verdict("m", "cpu", [("ship", "a")]).answer == "ship"
    assert settle_verdict("m", "cpu", [("ship", "a"), ("inconclusive", "b")]).answer == "inconclusive"


def test_verdicts_join_to_the_worst() -> None:
    assert join_verdicts([True, True]) is True
    assert join_verdicts([True, None]) is None
    assert join_verdicts([None, False, True]) is False
    assert join_verdicts([]) is True


def test_gains_and_losses_are_those_of_the_best_class_and_counted_apart() -> None:
    before = [(0, 9), (0, 9), (0, 9), (9, 0), (0, 9)]
    after = [(9, 0), (9, 0), (9, 8), (0, 9), (0, 9)]
    found = compare_predictions(make_report(before, after, labels=[0] * 5), 1)
    assert (found.gained, found.lost, found.changed) == (1, 3, 4)
    found = compare_predictions(make_report(before, after, labels=[0] * 5), 1, k=2)
    assert (found.gained, found.lost) == (0, 1)
