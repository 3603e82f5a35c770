"""Profiles beside costs: which layer a node is, what converts, what is an island, where a difference comes from."""

from __future__ import annotations

from typing import Any

import pytest
from hosts import HOST

from mbdeploy.costs.report import Bound, InspectReport, LayerCost, PeakMemory, Peaks, Roofline, Total
from mbdeploy.timing.layers import compare_layers, join_layers, measure_gap, sum_us


def make_layer(name: str, operator: str, output: tuple[int, ...], macs: int = 0, fused: bool = False) -> LayerCost:
    return LayerCost(
        name=name,
        operator=operator,
        kind="elementwise",
        inputs=(output,),
        output=output,
        kernel=(),
        strides=(),
        groups=1,
        macs=macs,
        weights=0,
        parameters=0,
        bytes_fp32=4000,
        bytes_int8=1000,
        live_fp32_bytes=0,
        live_int8_bytes=0,
        fused=fused,
    )


def make_report(*layers: LayerCost, precision: str = "fp32") -> InspectReport:
    total = Total(kind="", layers=0, macs=0, weights=0, parameters=0, bytes_fp32=0, bytes_int8=0)
    return InspectReport(
        model="m",
        size_bytes=1,
        opset=17,
        precision=precision,
        batch=1,
        inputs={},
        outputs={},
        nodes=0,
        folded=0,
        quantizers=0,
        total=total,
        kinds=(),
        layers=layers,
        uncounted=(),
        blocks=(),
        memory=PeakMemory(fp32_bytes=0, fp32_node="", int8_bytes=0, int8_node=""),
        findings=(),
    )


def node(name: str, operator: str, shape: list[int], *samples: int, kind: str = "float32") -> list[Any]:
    return [name, operator, "CPU", kind, [shape], list(samples)]


def test_a_node_is_the_layer_of_its_name_whatever_the_optimiser_added() -> None:
    report = make_report(
        make_layer("/a/Conv", "Conv", (1, 8, 4, 4), 1000),
        make_layer("/a/Clip", "Clip", (1, 8, 4, 4), fused=True),
        make_layer("b", "Conv", (1, 8, 4, 4), 2000),
    )
    rows = join_layers(
        [node("b_token_12", "QLinearConv", [1, 4, 4, 8], 10), node("/a/Clip_output_0_nchwc", "Conv", [1, 8, 4, 4], 20)],
        report,
        None,
    )
    assert [(row.layer, row.macs) for row in rows] == [("b", 2000), ("/a/Conv", 1000)]


def test_an_unknown_name_is_the_first_layer_left_of_its_operator_and_shape_blocks_rounded_up() -> None:
    report = make_report(
        make_layer("a", "Conv", (1, 24, 4, 4), 10),
        make_layer("b", "Conv", (1, 24, 4, 4), 20),
        make_layer("c", "Gemm", (1, 24), 30),
    )
    rows = join_layers(
        [
            node("getitem_1_nchwc", "Conv", [1, 32, 4, 4], 1),
            node("getitem_2", "FusedConv", [1, 24, 4, 4], 1),
            node("x", "QGemm", [1, 24], 1),
            node("y", "Conv", [1, 48, 4, 4], 1),
        ],
        report,
        None,
    )
    assert [row.layer for row in rows] == ["a", "b", "c", ""]
    assert rows[3].kind == "other"


def test_conversions_and_float_islands_are_rows_of_their_own() -> None:
    report = make_report(
        make_layer("a", "Conv", (1, 8, 4, 4), 10), make_layer("gate", "Sigmoid", (1, 8)), precision="int8"
    )
    rows = join_layers(
        [
            node("q", "QuantizeLinear", [1, 8, 4, 4], 1),
            node("a", "QLinearConv", [1, 8, 4, 4], 1, kind="uint8"),
            node("gate", "Sigmoid", [1, 8], 1),
            node("shape", "Reshape", [1, 8], 1),
        ],
        report,
        None,
    )
    assert [row.kind for row in rows] == ["conversion", "layer", "float island", "other"]
    assert (rows[1].size_bytes, rows[2].layer) == (1000, "gate")


def test_rates_and_the_share_of_the_roof_are_work_over_time() -> None:
    peaks = Peaks(gmacs_fp32=1, gmacs_int8=1, gbytes=((1, 1.0),), host=HOST)
    roofline = Roofline(precision="fp32", peaks=peaks, bounds=(Bound(layer="a", compute_us=2.0, memory_us=1.0),))
    report = make_report(make_layer("a", "Conv", (1, 8, 4, 4), macs=8000))
    [row] = join_layers([node("a", "Conv", [1, 8, 4, 4], 1000, 4, 4, 0)], report, roofline)
    assert row.us == 4  # the middle half: neither the slowest nor the fastest
    assert (row.gmacs, row.gbytes, row.share_of_roof) == (2.0, 1.0, 0.5)
    [bare] = join_layers([node("z", "Foo", [1], 0)], report, None)
    assert (bare.gmacs, bare.gbytes, bare.share_of_roof) == (None, None, None)


def test_differences_pair_layers_by_name_then_by_work_and_add_up() -> None:
    first = join_layers(
        [node("a", "Conv", [1, 8, 4, 4], 10), node("old", "Conv", [1, 16, 4, 4], 20)],
        make_report(make_layer("a", "Conv", (1, 8, 4, 4), 5), make_layer("old", "Conv", (1, 16, 4, 4), 7)),
        None,
    )
    second = join_layers(
        [
            node("q", "QuantizeLinear", [1, 3, 4, 4], 3),
            node("new", "Conv", [1, 16, 4, 4], 5),
            node("a", "Conv", [1, 8, 4, 4], 4),
        ],
        make_report(make_layer("new", "Conv", (1, 16, 4, 4), 7), make_layer("a", "Conv", (1, 8, 4, 4), 5)),
        None,
    )
    found = compare_layers(first, second)
    named = [(pair.first.name if pair.first else "", pair.second.name if pair.second else "") for pair in found]
    assert named == [("a", "a"), ("old", "new"), ("", "q")]
    assert [pair.us for pair in found] == [-6, -15, 3]
    assert sum(pair.us for pair in found) == sum_us(second) - sum_us(first)


def test_the_gap_of_a_run_is_what_its_own_nodes_left() -> None:
    report = make_report()
    rows = join_layers(
        [node("a", "Foo", [1], 10, 20), node("b", "Foo", [1], 1, 1), node("c", "If", [1], 9)], report, None
    )
    assert measure_gap([13_000, 24_000], rows) == pytest.approx(2.5)
