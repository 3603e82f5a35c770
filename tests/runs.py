"""Timed runs that nobody measured, of times that a test makes up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hosts import HOST

from mbdeploy.results import BenchRun, ModelRef, Placement, Series


def make_series(model: ModelRef, times_ns: Sequence[int], **fields: Any) -> Series:
    """One file's times, wall clock and CPU alike unless ``fields`` say otherwise."""
    told: dict[str, Any] = {
        "provider": "cpu",
        "wall_ns": tuple(times_ns),
        "cpu_ns": tuple(times_ns),
        "load_ns": 1,
        "first_ns": 1,
        "warmup_ns": (),
        "peak_bytes": 1,
        "base_bytes": 1,
        "loaded_bytes": 1,
        "placement": Placement(nodes={}, operators={}),
        "session": {},
    }
    return Series(model=model, **{**told, **fields})


def make_bench(*series: Series, control: Series, **fields: Any) -> BenchRun:
    """A run of these series and their A/A control, on one thread and one image at a time."""
    told: dict[str, Any] = {
        "provider": "cpu",
        "threads": 1,
        "batch_size": 1,
        "warmup": None,
        "min_duration_s": 1.0,
        "inputs": "golden.npz",
        "tolerance": 0.05,
        "seed": 0,
        "host": HOST,
    }
    return BenchRun(series=series, control=control, **{**told, **fields})
