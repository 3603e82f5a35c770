"""What may be compared: only like with like, and the front is of those that nothing beats."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from folders import (
    EXPORT,
    HOST,
    QUANTIZE,
    SIMPLIFY,
    evaluate,
    make_evaluation,
    make_metrics,
    make_parity,
    make_row,
    make_run,
)

from mbdeploy.stages.report import read_report, report
from mbdeploy.stages.reporting.variants import (
    Variant,
    list_fields,
    list_hosts,
    list_variants,
    name_models,
)

VARIANT = Variant(
    report=0, model="net", file="int8", provider="cpu", host=0, size_bytes=4, threads=1, batch_size=1, p50_ns=1.0
)


def vary(**changed: object) -> Variant:
    return msgspec.structs.replace(VARIANT, **changed)


def test_a_variant_is_on_the_front_unless_another_is_as_good_in_all_and_better_in_one() -> None:
    fast = vary(p50_ns=1.0, top1_agreement=0.9, size_bytes=4)
    good = vary(p50_ns=2.0, top1_agreement=1.0, size_bytes=8)
    beaten = vary(p50_ns=2.0, top1_agreement=0.9, size_bytes=8)
    twin = vary(p50_ns=1.0, top1_agreement=0.9, size_bytes=4)
    (field,) = list_fields([fast, good, beaten, twin])
    assert field.members == (0, 1, 2, 3)
    assert field.best == (0, 1, 3)


@pytest.mark.parametrize(
    "changed", [{"host": 1}, {"provider": "cuda"}, {"threads": 2}, {"batch_size": 8}, {"report": 1}]
)
def test_what_was_not_timed_alike_has_no_field_in_common(changed: dict[str, object]) -> None:
    assert list_fields([vary(top1_agreement=1.0), vary(top1_agreement=0.9, **changed)]) == []


def test_models_compare_only_by_accuracy_on_the_same_images(make_folder: Callable[..., Path]) -> None:
    folders = [
        make_folder(
            folder=name,
            fp32=EXPORT,
            bench=[make_run(70)],
            evaluation=make_evaluation(evaluate("fp32", 80), evaluate("simplified", hits), evaluate("int8", hits - 1)),
        )
        for name, hits in (("small", 60), ("large", 80))
    ]
    reports = [read_report(folder) for folder in folders]
    variants = list_variants(reports, ["small", "large"])
    (field,) = list_fields(variants)
    assert [(variants[index].model, variants[index].file) for index in field.members] == [
        ("small", "simplified"),
        ("small", "int8"),
        ("large", "simplified"),
        ("large", "int8"),
    ]
    assert field.quality == "top-1"
    assert [variants[index].top1.value for index in field.best if variants[index].top1] == [0.8, 0.79]


def test_hosts_are_one_if_everything_recorded_is_equal_but_their_providers(make_folder: Callable[..., Path]) -> None:
    same = msgspec.structs.replace(HOST, providers=("OpenVINO",))
    other = msgspec.structs.replace(HOST, versions={"onnxruntime": "1.30"})
    runs = [
        make_run(70),
        msgspec.structs.replace(make_run(70), provider="openvino", host=same),
        msgspec.structs.replace(make_run(70), provider="old", host=other),
    ]
    found = read_report(make_folder(fp32=EXPORT, bench=runs))
    assert [fact.measured for fact in found.hosts] == [
        ("results/bench.json: cpu", "results/bench.json: openvino"),
        ("results/bench.json: old",),
    ]
    assert len(list_hosts([found, found])) == 2
    assert [variant.host for variant in list_variants([found], ["net"])] == [0, 0, 0, 0, 1, 1]


def test_a_variant_with_a_degenerate_output_has_no_quality(make_folder: Callable[..., Path]) -> None:
    good = make_row("int8", "executed", "reference", make_metrics(), output="a")
    bad = make_row("int8", "executed", "reference", make_metrics(degenerate="constant"), output="b")
    (variant,) = list_variants([read_report(make_folder(int8=QUANTIZE, parity=make_parity(good, bad)))], ["net"])
    assert (variant.sqnr_db, variant.top1_agreement, variant.p50_ns) == (None, None, None)


def test_the_worst_output_speaks_for_a_variant(make_folder: Callable[..., Path]) -> None:
    rows = [
        make_row("int8", "executed", "reference", make_metrics(sqnr_db=decibels), output=name)
        for name, decibels in (("a", math.inf), ("b", 12.5))
    ]
    (variant,) = list_variants([read_report(make_folder(int8=QUANTIZE, parity=make_parity(*rows)))], ["net"])
    assert variant.sqnr_db == 12.5


def test_models_of_one_name_are_told_apart_by_their_folders(make_folder: Callable[..., Path]) -> None:
    folders = [make_folder(folder=f"{host}/lite0", fp32=EXPORT) for host in ("a", "b")]
    reports = [read_report(folder) for folder in folders]
    assert name_models(reports, folders) == [str(folder) for folder in folders]
    assert name_models(reports[:1], folders[:1]) == ["lite0"]


def test_several_folders_stand_side_by_side_first_and_fit_80_columns(make_folder: Callable[..., Path]) -> None:
    parts = {"fp32": EXPORT, "simplified": SIMPLIFY, "int8": QUANTIZE}
    folders = [make_folder(folder=name * 40, **parts, bench=[make_run(70)]) for name in ("a", "b")]
    shown = report(*folders)
    assert shown.startswith("Side by side\n")
    assert max(map(len, shown.splitlines())) <= 80
    assert "## Side by side" in report(*folders, format="md")
