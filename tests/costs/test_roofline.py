"""Bounds under measured peaks, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper

from mbdeploy.costs.report import InspectReport, Peaks
from mbdeploy.costs.roofline import bound_layers, find_bandwidth
from mbdeploy.results import Host

HOST = Host(
    machine="x86_64",
    system="Linux",
    cpu="a CPU",
    isa=("avx2",),
    cores=1,
    affinity=1,
    cgroup_cores=None,
    memory_bytes=1 << 30,
    versions={},
    providers=("CPUExecutionProvider",),
)
PEAKS = Peaks(gmacs_fp32=10.0, gmacs_int8=40.0, gbytes=((1000, 50.0), (100_000, 60.0), (10_000_000, 5.0)), host=HOST)


def test_a_layer_takes_the_longer_of_computing_and_moving(
    make_model: Callable[..., onnx.ModelProto], look: Callable[..., InspectReport]
) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Add", ["c", "x"], ["y"], "add"),
    ]
    report = look(make_model(nodes, [1, 100, 10, 10], {"w": np.zeros((100, 100, 1, 1), np.float32)}))
    conv, add = bound_layers(report, PEAKS).bounds
    assert (conv.compute_us, conv.memory_us) == pytest.approx((100.0, 120_000 / 60e3))
    assert (conv.limit_us, conv.by) == (pytest.approx(100.0), "compute")
    assert (add.compute_us, add.memory_us) == pytest.approx((0.0, 120_000 / 60e3))
    assert add.by == "memory"


@pytest.mark.parametrize(
    ("size", "expected"), [(10, 60.0), (1000, 60.0), (99_999, 60.0), (100_000, 60.0), (20_000_000, 5.0)]
)
def test_no_layer_is_granted_less_than_any_larger_working_set_reached(size: int, expected: float) -> None:
    assert find_bandwidth(PEAKS, size) == expected
