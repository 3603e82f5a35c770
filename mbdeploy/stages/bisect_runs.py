"""A failing cell, parts of its graph run as it was, and how far what they give is from the exact values."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import model_file
from mbdeploy.card import Budgets
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import Check
from mbdeploy.targets import Job, Ran, Session, Target, open_target, parse_provider
from mbdeploy.tracing.cuts import Cut

#: Executed against exact: one step is rounding, more is not.
_ROUNDING_LSB = 1.0
#: Eight times the step of float16 next to 1: what sums of its products may differ by.
_ROUNDING_FP16 = 2**-7

Values = NDArray[np.float32]


class Cell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A failing cell: the file, how it was opened and where, its inputs and the reference's output of that ``index``.

    ``executed`` and ``exact`` are its outputs; ``failed`` are its gates that did not hold.
    """

    model: Path
    name: str
    kind: str
    session: Session
    target: Target
    inputs: Values
    expected: NDArray[Any]
    executed: NDArray[Any]
    exact: NDArray[Any]
    index: int
    failed: tuple[Check, ...]
    budgets: Budgets


def run_parts(
    session: Session,
    target: Target,
    parts: Sequence[onnx.ModelProto],
    inputs: Values,
    on_progress: Progress = ignore_progress,
) -> list[tuple[NDArray[Any], ...]]:
    """The outputs of each part, run in one job as ``session`` says."""
    return [ran.outputs for ran in run_models(session, target, parts, inputs, on_progress)]


def run_models(
    session: Session,
    target: Target,
    models: Sequence[onnx.ModelProto],
    inputs: Values,
    on_progress: Progress = ignore_progress,
) -> tuple[Ran, ...]:
    """What each model gave, run in one job as ``session`` says."""
    with tempfile.TemporaryDirectory(prefix="mbdeploy-parts-") as folder:
        sessions = []
        for number, model in enumerate(models):
            path = Path(folder) / f"part{number}.onnx"
            model_file.save_model(model, path)
            sessions.append(msgspec.structs.replace(session, model=path, companions=()))
        job = Job(kind="infer", sessions=tuple(sessions), inputs=inputs, batch_size=len(inputs))
        return target.run(job, on_progress).sessions


def open_here(session: Session) -> tuple[Session, Target]:
    """How exact values are had: the same threads on this CPU, and nothing optimised."""
    here = parse_provider("cpu")
    plain = msgspec.structs.replace(
        session,
        provider=here.ep,
        runtime="onnxruntime",
        provider_options={},
        session_config={},
        optimization="none",
        allow_fallback=False,
    )
    return plain, open_target(here)


def diverges(cut: Cut, executed: Values, exact: Values, ideal: Values | None, cell: Cell) -> bool:
    """Whether a tensor as executed is further from the exact one than rounding makes it.

    In an 8-bit graph: beyond one step, and further from the unrounded values by more dB than the budget of the gap
    allows. In a float one: beyond the budget of the file's kind (rounding in float16), times its largest value if
    above 1. What is equal, NaN and all, does not differ, whatever its metrics are.
    """
    if np.array_equal(executed, exact, equal_nan=True):
        return False
    _, lsb = measure(cut, executed, exact)
    if ideal is not None and (lsb is None or lsb > _ROUNDING_LSB):
        gap = compare_outputs(ideal, exact).sqnr_db - compare_outputs(ideal, executed).sqnr_db
        return not gap <= cell.budgets.int8_exact_gap_db
    if lsb is not None:
        return False
    bounds = {"simplified": cell.budgets.simplify_max_abs, "fp16": _ROUNDING_FP16}
    bound = bounds.get(cell.kind, cell.budgets.export_max_abs)
    largest = float(np.abs(exact).max(initial=1.0))
    return not float(np.abs(executed.astype(np.float64) - exact).max()) <= bound * largest


def measure(cut: Cut, executed: Values, exact: Values) -> tuple[float, float | None]:
    """SQNR of executed against exact, in dB, and the largest distance in steps of an 8-bit tensor."""
    metrics = compare_outputs(exact, executed, cut.scale)
    if metrics.degenerate and executed.shape == exact.shape and np.array_equal(executed, exact, equal_nan=True):
        return float("inf"), 0.0 if cut.scale else None
    lsb = None if cut.scale is None else float(np.abs(executed - exact).max()) / cut.scale
    return metrics.sqnr_db, lsb
