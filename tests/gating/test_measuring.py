"""Emulated CPUs have parity and no time; time that the quick bench does not pass is measured again in full."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from mbdeploy.card import Budgets, load_card
from mbdeploy.derive import Latency
from mbdeploy.estimate import Interval
from mbdeploy.gating import measuring
from mbdeploy.gating.measured import Measured
from mbdeploy.gating.measuring import measure_card
from mbdeploy.results import Check, ParityReport
from mbdeploy.stages.facts import LatencyFact, LatencyFacts

CARD = load_card("mobilenet_v1_025")
EMULATED = "cpu@qemu:haswell"


def make_facts(ratio: float) -> LatencyFacts:
    """INT8 takes ``ratio`` of the baseline's time, surely; the control passed."""
    times = Latency(n=100, p50_ns=1e6, p90_ns=None, p95_ns=None, p99_ns=None, images_per_s=1000.0)
    fields: dict[str, Any] = {
        "provider": "cpu",
        "threads": 1,
        "batch_size": 1,
        "clock": "cpu",
        "wall": times,
        "cpu": times,
        **dict.fromkeys(("load_ns", "first_ns", "peak_bytes", "loaded_bytes", "base_bytes"), 1),
    }
    interval = Interval(value=ratio, low=ratio * 0.99, high=ratio * 1.01, n=100, confidence=0.95)
    models = (
        LatencyFact(model="simplified", ratio=None, **fields),
        LatencyFact(model="int8", ratio=interval, **fields),
    )
    control = Check(name="A/A control", subject="", value=0.0, bound=0.05, comparison="<=", passed=True)
    one = Interval(value=1.0, low=0.99, high=1.01, n=100, confidence=0.95)
    return LatencyFacts(models=models, control=one, checks=(control,), cpu="", isa=(), inputs="")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What was run, verified and timed, in order; the quick bench says 1.2, the full one 0.8."""
    made: list[Any] = []

    def verify(models: list[Path], **options: Any) -> ParityReport:
        made.append(("verify", [path.name for path in models], options["providers"]))
        gate = Check(name="sqnr_db", subject=f"int8 on {EMULATED}", value=20, bound=10, comparison=">=", passed=True)
        return ParityReport(reference="golden", rows=(), checks=(gate,), hosts={})

    def bench(models: list[Path], **options: Any) -> list[str]:
        made.append(("bench", [path.name for path in models], options["providers"]))
        return ["run"]

    for name in ("int8.onnx", "golden.npz"):
        (tmp_path / name).touch()
    monkeypatch.setattr(measuring, "open_target", lambda provider: SimpleNamespace(emulated="@" in provider.word))
    monkeypatch.setattr(measuring, "run", lambda card, **options: made.append(("run", list(options["providers"]))))
    monkeypatch.setattr(
        measuring, "read_measured", lambda folder: Measured(checks=(), parity=(), latency=(make_facts(1.2),))
    )
    monkeypatch.setattr(measuring.verify, "verify", verify)
    monkeypatch.setattr(measuring, "bench", bench)
    monkeypatch.setattr(measuring, "derive_latency", lambda run: make_facts(0.8))
    monkeypatch.setattr(
        measuring,
        "keep_runs",
        lambda folder, name, models, runs, **options: made.append(("keep", name, runs, options)) if runs else None,
    )
    return made


def test_on_an_emulated_cpu_the_int8_file_alone_is_verified_once_and_never_timed(
    calls: list[Any], tmp_path: Path
) -> None:
    found = measure_card(CARD, tmp_path, [EMULATED], {})
    assert calls == [("run", ["cpu"]), ("verify", ["int8.onnx"], [EMULATED])]
    assert [(gate.variant, gate.provider, gate.rule) for gate in found.gates] == [("int8", EMULATED, "MB402")]
    measure_card(CARD, tmp_path, [EMULATED], {})
    assert [name for name, *_ in calls].count("verify") == 1


@pytest.mark.parametrize(("confirm", "passed"), [(False, False), (True, True)])
def test_time_that_does_not_pass_is_decided_by_a_full_bench(
    calls: list[Any], tmp_path: Path, confirm: bool, passed: bool
) -> None:
    card = msgspec.structs.replace(CARD, budgets=Budgets(latency_ratio=1.0))
    gate, _ = measure_card(card, tmp_path, ["cpu"], {"trust": False, "on_stage": print}, confirm=confirm).gates
    assert (gate.check.name, gate.check.passed) == ("latency_ratio", passed)
    full = [
        ("bench", ["simplified.onnx", "int8.onnx"], ["cpu"]),
        ("keep", "results/bench-confirm.json", ["run"], {"tolerance": 0.05}),
    ]
    assert calls[1:] == (full if confirm else [])


def test_time_that_passes_is_not_measured_again(calls: list[Any], tmp_path: Path) -> None:
    card = msgspec.structs.replace(CARD, budgets=Budgets(latency_ratio=1.5))
    gate, _ = measure_card(card, tmp_path, ["cpu"], {}, confirm=True).gates
    assert gate.check.passed is True and calls == [("run", ["cpu"])]
