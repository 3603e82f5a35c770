"""From saved results to the numbers worth remembering: what each kind of result says, one measurement a metric."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.decoding import decode_json
from mbdeploy.derive import choose_clock, estimate_time
from mbdeploy.estimate import Interval
from mbdeploy.remembering.measurement import EARLIEST, LATEST, NO_HOST, Measurement, Source, classify_host
from mbdeploy.results import BenchRun, EvalReport, ModelRef, ParityReport
from mbdeploy.stages.facts import derive_accuracy, derive_latency, derive_parity
from mbdeploy.stages.reporting.reading import SavedSweep, has_models
from mbdeploy.stages.reporting.sweeps import derive_sweep
from mbdeploy.swept import Row, SweepReport, split_rows

_CLOCKS = {"cpu": "CPU time", "wall": "wall clock"}
_OWN_STEMS = ("fp32", "simplified", "int8")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """A result's file: its sha256, the output folder it is of (None for one that lies alone), what the user calls the
    model ("": nothing), which version measured, and when it was added."""

    path: Path
    sha256: str
    folder: Path | None
    model: str
    mbdeploy: str
    added: datetime

    def describe(self, source: Source, ref: ModelRef, when: str = "", model: str = "") -> dict[str, Any]:
        """The columns that all metrics of a model in this result share."""
        return {
            "when_utc": _read_date(when) if when else self.added,
            "dated": "measured" if when else "added",
            "source": source,
            "result": self.sha256,
            "model": model or self._name_model(ref),
            "variant": ref.name,
            "recipe": self._find_recipe(ref),
            "sha256": ref.sha256,
            "mbdeploy": self.mbdeploy,
        }

    def _name_model(self, ref: ModelRef) -> str:
        """What the user says; else the name of the output folder that the result is of, or the model lay in; else the
        model's own."""
        above = Path(ref.path).absolute().parent
        folder = self.folder or (above if ref.name in _OWN_STEMS or has_models(above) else None)
        return self.model or (ref.name if folder is None else folder.resolve().name)

    def _find_recipe(self, ref: ModelRef) -> str:
        """The recipe in the sidecar of the very file that was measured, if it is still there."""
        places = [Path(ref.path), *([self.folder / f"{ref.name}.onnx"] if self.folder is not None else [])]
        for place in places:
            sidecar = artifact.read_sidecar(place)
            if sidecar is not None and sidecar.sha256 == ref.sha256:
                record = decode_json(bytes(sidecar.record), Any)  # type: ignore[arg-type]
                return str(record.get("recipe", "")) if isinstance(record, dict) else ""
        return ""


def collect_runs(result: Result, runs: list[BenchRun]) -> Iterator[Measurement]:
    """Of every timed model: time, ratio to the baseline, size, memory, load and energy; and each run's A/A control."""
    for run in runs:
        for index, series in enumerate(run.series):
            yield from _collect_series(run, index, result.describe("bench", series.model, run.when_utc))


def collect_parity(result: Result, report: ParityReport) -> Iterator[Measurement]:
    """Of every model and provider: SQNR as executed and exact, and agreement; of several outputs the worst."""
    refs = {row.model.name: row.model for row in report.rows}
    hosts = report.hosts
    groups: dict[tuple[str, str], list[Any]] = {}
    for fact in derive_parity(report):
        groups.setdefault((fact.model, fact.provider), []).append(fact)
    for (model, provider), facts in groups.items():
        executed = [fact.executed for fact in facts if fact.executed is not None]
        exact = [fact.exact for fact in facts if fact.exact is not None]
        agreeing = [found.top1_agreement for found in executed if found.top1_agreement is not None]
        images = max((found.images for found in (*executed, *exact)), default=0)
        host = next((hosts[name] for name in (provider, provider.partition(" ")[0]) if name in hosts), None)
        common = {
            **result.describe("verify", refs[model]),
            **(NO_HOST if host is None else classify_host(host, provider)),
            "provider": provider,
            "basis": f"{images} images of {Path(report.reference).name}",
        }
        for metric, values in (
            ("sqnr_db", [found.sqnr_db for found in executed]),
            ("exact_sqnr_db", [found.sqnr_db for found in exact]),
            ("top1_agreement", agreeing),
        ):
            if values:
                worst = next((value for value in values if value != value), min(values))  # NaN is the worst
                yield _measure(common, metric, worst, n=images)


def collect_evaluation(result: Result, report: EvalReport) -> Iterator[Measurement]:
    """Top-1 and top-5 of every model on labelled images."""
    facts = derive_accuracy(report)
    for fact, evaluated in zip(facts.models, report.models, strict=True):
        common = {
            **result.describe("evaluate", evaluated.model),
            **(NO_HOST if report.other_hosts else classify_host(report.host, evaluated.provider)),
            "provider": evaluated.provider,
            "basis": f"{Path(report.data).name}, {report.data_digest[:12]}",
        }
        for metric, interval in (("top1", fact.top1), ("top5", fact.top5)):
            yield _measure(common, metric, interval)


def collect_sweep(result: Result, report: SweepReport) -> Iterator[Measurement]:
    """Of every variant what its runs say; SQNR and accuracy once, since a sweep does not say where they were taken."""
    facts = derive_sweep(SavedSweep(folder=result.path.parent, report=report))
    seen: set[tuple[str, str]] = set()
    for run, rows in split_rows(facts.rows, report.runs):
        for index, (series, row) in enumerate(zip(run.series, rows, strict=True)):
            common = {
                **result.describe("sweep", series.model, run.when_utc, row.variant),
                "recipe": "" if row.recipe == "fp32" else row.recipe,
            }
            yield from _collect_series(run, index, common)
            if (row.variant, row.recipe) not in seen:
                seen.add((row.variant, row.recipe))
                yield from _collect_quality(row, common, report.asked.data or "")


def _collect_quality(row: Row, common: dict[str, Any], data: str) -> Iterator[Measurement]:
    common = {**common, **NO_HOST, "provider": "cpu"}
    yield _measure({**common, "basis": "golden images of the sweep"}, "sqnr_db", row.sqnr_db)
    if row.top1 is not None:
        yield _measure({**common, "basis": f"{Path(data).name}, n = {row.top1.n}"}, "top1", row.top1)


def _collect_series(run: BenchRun, index: int, common: dict[str, Any]) -> Iterator[Measurement]:
    facts, series = derive_latency(run), run.series[index]
    fact, clock = facts.models[index], _CLOCKS[choose_clock(run)]
    common = {
        **common,
        **classify_host(run.host, series.provider),
        "provider": series.provider,
        "threads": run.threads,
        "batch_size": run.batch_size,
    }
    baseline = f"{clock}, over {run.series[0].model.name}"
    yield _measure({**common, "basis": clock}, "latency_ms", estimate_time(run, index))
    if fact.ratio is not None:
        yield _measure({**common, "basis": baseline}, "latency_ratio", fact.ratio)
    else:
        yield _measure({**common, "basis": f"{clock}, the baseline again"}, "control_ratio", facts.control)
    yield _measure(common, "size_bytes", series.model.size_bytes)
    yield _measure(common, "peak_bytes", series.peak_bytes)
    yield _measure(common, "load_ms", fact.load_ns / 1e6)
    if fact.energy_mj is not None:
        yield _measure({**common, "basis": "the whole machine"}, "energy_mj", fact.energy_mj)


def _read_date(when: str) -> datetime:
    date = datetime.strptime(when, "%Y-%m-%dT%H:%M:%SZ")
    if not EARLIEST <= date <= LATEST:
        raise ValueError(f"the date {when}")
    return date


def _measure(common: dict[str, Any], metric: str, value: float | Interval, *, n: int | None = None) -> Measurement:
    shared: dict[str, Any] = {"threads": None, "batch_size": None, "basis": "", **common, "metric": metric}
    if isinstance(value, Interval):
        return Measurement(**shared, value=value.value, low=value.low, high=value.high, n=value.n)
    return Measurement(**shared, value=float(value), low=None, high=None, n=n)
