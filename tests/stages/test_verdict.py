"""Ship or not: what decides, in which order, and that nothing slower than FP32 is ever called a gain."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mbdeploy.derive import Changed, Latency
from mbdeploy.estimate import Interval
from mbdeploy.results import Check
from mbdeploy.stages.facts import AccuracyFact, AccuracyFacts, LatencyFact, LatencyFacts
from mbdeploy.stages.figures import tabulate_verdicts
from mbdeploy.stages.verdict import judge_int8


def make_interval(value: float, low: float, high: float, n: int = 100) -> Interval:
    return Interval(value=value, low=low, high=high, n=n, confidence=0.95)


def make_run(ratio: Interval, *, control: bool | None = True, gate: bool | None = True, **fields: Any) -> LatencyFacts:
    times = Latency(n=100, p50_ns=1.0, p90_ns=None, p95_ns=None, p99_ns=None, images_per_s=None)
    shared = {"provider": "cpu", "threads": 1, "batch_size": 1, "clock": "cpu", "wall": times, "cpu": times}
    numbers = {"load_ns": 1, "first_ns": 1, "peak_bytes": 1, "loaded_bytes": 1, "base_bytes": 1}
    models = tuple(
        LatencyFact(model=name, ratio=own, **{**shared, **numbers, **fields})
        for name, own in (("simplified", None), ("int8", ratio))
    )
    checks = (
        make_check("A/A control", control, subject="simplified on cpu"),
        make_check("cpu time ratio", gate, subject="int8 on cpu", note="" if gate is not None else "too few pairs"),
    )
    return LatencyFacts(models=models, control=make_interval(1, 1, 1), checks=checks, cpu="", isa=(), inputs="")


def make_check(name: str, passed: bool | None, *, subject: str = "int8 on cpu", note: str = "") -> Check:
    return Check(name=name, subject=subject, value=25.0, bound=20.0, comparison=">=", passed=passed, note=note)


def make_accuracy(low: float, value: float, high: float) -> AccuracyFacts:
    changed = Changed(n=872, changed=9, gained=3, lost=6, difference=make_interval(value, low, high, 872), p_value=0.5)
    same = {
        "top1": make_interval(0.8, 0.7, 0.9),
        "top5": make_interval(0.9, 0.8, 1.0),
        "metrics": None,
        "provider": "cpu",
    }
    models = (
        AccuracyFact(model="simplified", changed=None, **same),
        AccuracyFact(model="int8", changed=changed, **same),
    )
    return AccuracyFacts(data="labels.csv", background=False, models=models)


FASTER, SLOWER, EVEN = make_interval(0.6, 0.59, 0.61), make_interval(1.1, 1.09, 1.11), make_interval(1.0, 0.99, 1.01)
GATE = (make_check("sqnr_db", True),)


@pytest.mark.parametrize(
    ("run", "checks", "accuracy", "answer", "first"),
    [
        (make_run(FASTER), GATE, (-0.004, 0.0, 0.004), "ship", "0.600 [0.590, 0.610] of optimised FP32's cpu time"),
        (make_run(FASTER), GATE, None, "ship", "0.600 [0.590"),
        (make_run(SLOWER), GATE, (-0.004, 0.0, 0.004), "don't ship", "no gain: 1.100 [1.090, 1.110]"),
        (make_run(EVEN), GATE, (-0.004, 0.0, 0.004), "inconclusive", "no gain shown: 1.000"),
        (make_run(FASTER), GATE, (-0.05, -0.03, -0.02), "don't ship", "top-1 -3.0 points [-5.0, -2.0], n = 872"),
        (make_run(FASTER), GATE, (-0.02, -0.005, 0.01), "inconclusive", "top-1 -0.5 points [-2.0, +1.0]"),
        (
            make_run(FASTER),
            (make_check("sqnr_db", False),),
            None,
            "don't ship",
            "the gate on sqnr_db failed: 25, not >= 20",
        ),
        (
            make_run(FASTER, control=False),
            GATE,
            None,
            "inconclusive",
            "0.600 [0.590, 0.610] of optimised FP32's cpu time, ",
        ),
        (
            make_run(FASTER, gate=None),
            GATE,
            None,
            "inconclusive",
            "0.600 [0.590, 0.610] of optimised FP32's cpu time: too",
        ),
        (make_run(FASTER), (), None, "inconclusive", "neither accuracy nor parity was measured"),
        (
            make_run(FASTER),
            (*GATE, make_check("exact_gap_db", None, note="8 images cannot tell it from rounding")),
            (-0.004, 0.0, 0.004),
            "inconclusive",
            "the gate on exact_gap_db: 8 images cannot tell it from rounding",
        ),
    ],
)
def test_the_worst_finding_decides(
    run: LatencyFacts, checks: tuple[Check, ...], accuracy: tuple[float, float, float] | None, answer: str, first: str
) -> None:
    data = (make_accuracy(*accuracy),) if accuracy else ()
    (verdict,) = judge_int8([run], checks, data, trained=True)
    assert (verdict.provider, verdict.answer) == ("cpu", answer)
    assert verdict.reasons[0].startswith(first)


def test_seeded_weights_can_be_too_slow_and_never_shipped() -> None:
    (fast,) = judge_int8([make_run(FASTER)], GATE, (), trained=False)
    (slow,) = judge_int8([make_run(SLOWER)], GATE, (), trained=False)
    assert (fast.answer, slow.answer) == ("inconclusive", "don't ship")
    assert fast.reasons[0] == "seeded weights: there is no accuracy to lose"


def test_the_gates_on_every_output_of_a_network_with_several_decide() -> None:
    heat = make_check("sqnr_db", True, subject="int8 on cpu, output heat")
    boxes = make_check("sqnr_db", False, subject="int8 on cpu, output boxes")
    (good,) = judge_int8([make_run(FASTER)], (heat,), (), trained=None)
    (bad,) = judge_int8([make_run(FASTER)], (heat, boxes), (), trained=None)
    assert (good.answer, bad.answer) == ("ship", "don't ship")
    assert good.reasons[1].startswith("gates passed (sqnr_db of heat ")
    assert bad.reasons[0].startswith("the gate on sqnr_db of boxes failed: ")


def test_a_gate_of_another_provider_decides_nothing_here() -> None:
    elsewhere = make_check("sqnr_db", False, subject="int8 on cuda")
    (verdict,) = judge_int8([make_run(FASTER)], (*GATE, elsewhere), (), trained=True)
    assert verdict.answer == "ship"


def test_a_run_without_the_int8_file_has_no_verdict() -> None:
    run = make_run(FASTER)
    alone = LatencyFacts(models=run.models[:1], control=run.control, checks=run.checks, cpu="", isa=(), inputs="")
    assert judge_int8([alone], (), (), trained=True) == ()
    assert tabulate_verdicts(()) == []


def test_every_reason_is_a_row_under_its_provider() -> None:
    [table] = tabulate_verdicts(judge_int8([make_run(SLOWER)], GATE, (), trained=True))
    assert [row[:2] for row in table.rows] == [("cpu", "don't ship"), ("", "")]
    assert table.rows[1][2] == "gates passed (sqnr_db 25); accuracy on labelled images was not measured on cpu"


def test_accuracy_on_another_provider_is_none_on_this_one() -> None:
    accuracy = make_accuracy(-0.05, -0.03, -0.02)
    elsewhere = msgspec.structs.replace(
        accuracy, models=tuple(msgspec.structs.replace(model, provider="openvino") for model in accuracy.models)
    )
    [here] = judge_int8([make_run(FASTER)], GATE, (accuracy,), trained=True)
    [there] = judge_int8([make_run(FASTER)], GATE, (elsewhere,), trained=True)
    assert (here.answer, there.answer) == ("don't ship", "ship")
    assert "accuracy on labelled images was not measured on cpu" in " ".join(there.reasons)
