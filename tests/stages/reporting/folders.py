"""Saved results by hand: records, parity, runs and evaluations, and the folders that hold them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from runs import make_bench, make_series

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.estimate import Interval
from mbdeploy.records import ExportRecord, LayerRecord, QuantizeRecord, Rewrite, SimplifyRecord
from mbdeploy.results import (
    BenchRun,
    Check,
    EvalReport,
    Evaluated,
    Host,
    LayerCurve,
    LayerRow,
    Metrics,
    ModelRef,
    ParityReport,
    ParityRow,
    Placement,
    Prediction,
    Series,
)
from mbdeploy.swept import Asked, Row, SweepReport

HOST = Host(
    machine="x86_64",
    system="Linux 6",
    cpu="A CPU",
    isa=("avx2",),
    cores=2,
    affinity=2,
    cgroup_cores=None,
    memory_bytes=8 << 30,
    versions={"onnxruntime": "1.31.1"},
    providers=("CPUExecutionProvider",),
)
PLACEMENT = Placement(nodes={"CPUExecutionProvider": 3}, operators={"Conv": 1, "Relu": 1, "Gemm": 1})


def name_model(name: str) -> ModelRef:
    return ModelRef(name=name, path=f"{name}.onnx", sha256="0" * 64, size_bytes=1)


def make_metrics(**changed: Any) -> Metrics:
    plain = Metrics(images=32, elements=320, max_abs=0.25, sqnr_db=21.5, cosine=0.997, top1_agreement=0.96875)
    return msgspec.structs.replace(plain, **changed)


def make_row(name: str, mode: str, against: str, metrics: Metrics, **changed: Any) -> ParityRow:
    row = ParityRow(
        model=name_model(name),
        provider="cpu",
        mode=mode,  # type: ignore[arg-type]
        output="logits",
        metrics=metrics,
        placement=PLACEMENT,
        session={},
        against=against,  # type: ignore[arg-type]
    )
    return msgspec.structs.replace(row, **changed)


def make_parity(*rows: ParityRow, checks: tuple[Check, ...] = (), layers: tuple[LayerCurve, ...] = ()) -> ParityReport:
    return ParityReport(reference="golden.npz", rows=rows, checks=checks, hosts={"cpu": HOST}, layers=layers)


def make_curve(*layers: tuple[str, Metrics]) -> LayerCurve:
    """Layers in a line, each with its node's name."""
    return LayerCurve(
        model=name_model("int8"),
        origin=name_model("simplified"),
        provider="cpu",
        way="at once",
        layers=tuple(
            LayerRow(node=node, operator="Conv", tensor=str(k), sources=(str(k - 1),) if k else (), metrics=metrics)
            for k, (node, metrics) in enumerate(layers)
        ),
    )


def time_file(name: str, times_ns: list[int]) -> Series:
    memory = {"peak_bytes": 100_000_000, "base_bytes": 60_000_000, "loaded_bytes": 80_000_000}
    starting = {"load_ns": 50_000_000, "first_ns": 9_000_000}
    return make_series(name_model(name), times_ns, placement=PLACEMENT, **starting, **memory)


def make_run(n: int, ratio: float = 0.5) -> BenchRun:
    times = [10_000_000] * n, [int(10_000_000 * ratio)] * n
    series = [time_file(name, one) for name, one in zip(("simplified", "int8"), times, strict=True)]
    return make_bench(*series, control=time_file("simplified", times[0]), host=HOST)


EXPORT = ExportRecord(
    exporter="dynamo", opset=18, images=32, max_abs=1.5e-5, torch_export_s=3.0, trained=True, golden_sha256="1" * 64
)
SIMPLIFY = SimplifyRecord(
    onnxsim="CRASHED",
    attempt="rewrites only",
    detail="killed by SIGSEGV",
    rewrites=(Rewrite(name="mean_to_global_pool", count=2, nodes=("a", "b")),),
    operators_before={"ReduceMean": 2, "Conv": 1},
    operators_after={"GlobalAveragePool": 2, "Conv": 1},
    max_abs=0.0,
    opsets=(18, 18),
)
LAYER = LayerRecord(
    node="stem",
    operator="Conv",
    weight="stem.weight",
    depthwise=False,
    input_range=(-1.0, 1.0),
    output_range=(0.0, 6.0),
    weight_scale=(0.001, 0.002),
    growth_mean=1.25,
    growth_max=1.75,
    clipping=0.5,
)
QUANTIZE = QuantizeRecord(
    recipe="portable",
    techniques=("bias",),
    method="minmax",
    samples=128,
    data="photos",
    data_digest="2" * 64,
    layers=(LAYER,),
    float_nodes={"gate": "HardSigmoid has no INT8 kernel"},
    operators={"QLinearConv": 1},
    cpu_s=6.5,
    peak_bytes=200_000_000,
)


def evaluate(name: str, hits: int) -> Evaluated:
    """A model that is right on the first ``hits`` of 100 images, and second best on the others."""
    predictions = tuple(
        Prediction(name=str(index), label=0, top=(0, 1, 2, 3, 4) if index < hits else (1, 2, 3, 4, 0))
        for index in range(100)
    )
    return Evaluated(model=name_model(name), provider="cpu", predictions=predictions, placement=PLACEMENT)


def make_evaluation(*models: Evaluated) -> EvalReport:
    """An evaluation of models, the first of them the reference."""
    return EvalReport(
        data="images",
        data_digest="3" * 64,
        classes=5,
        background=False,
        models=models,
        metrics=(make_metrics(),) * (len(models) - 1),
        host=HOST,
    )


def make_sweep(*places: tuple[str, int], host: Host = HOST, top1: bool = False) -> SweepReport:
    """Two variants in FP32 and portable, timed in every place (provider and threads): "small" has half the MACs of
    "large", and in portable the longer time."""
    rows, runs = [], []
    for variant, macs, ratio in (("small", 50_000_000, 0.9), ("large", 100_000_000, 0.5)):
        for provider, threads in places:
            run = msgspec.structs.replace(make_run(70, ratio), provider=provider, threads=threads, host=host)
            runs.append(run)
            for recipe, decibels in (("fp32", 120.0), ("portable", 20.0 if variant == "small" else 25.0)):
                accuracy = Interval(value=decibels / 200, low=0.0, high=1.0, n=100, confidence=0.95)
                rows.append(
                    Row(
                        variant=variant,
                        alpha=1.0,
                        size=96,
                        recipe=recipe,
                        provider=provider,
                        threads=threads,
                        macs=macs,
                        parameters=10,
                        sqnr_db=decibels,
                        top1=accuracy if top1 else None,
                        size_bytes=1,
                    )
                )
    asked = Asked(cards=("mine; rm",), rho=(96, 128), recipe=("portable",), providers=("cpu",))
    return SweepReport(plan=(), rows=tuple(rows), runs=tuple(runs), asked=asked)


def write_folder(folder: Path, **parts: Any) -> Path:
    """An output folder: sidecars from records named fp32, simplified and int8, and results by their names."""
    results = {"parity", "bench", "explain", "evaluation", "matrix"}
    for name in results & set(parts):
        artifact.write_json(folder / "results" / f"{name}.json", parts[name])
    for number, name in enumerate([part for part in parts if part not in results], start=1):
        artifact.write_bytes(folder / f"{name}.onnx", b"x" * (4_000_000 // number))
        provenance = Provenance(stage=name, params={}, parents={}, tools={"onnx": "1.23"})
        artifact.write_sidecar(folder / f"{name}.onnx", provenance, parts[name])
    return folder
