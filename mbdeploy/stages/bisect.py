"""The first node that makes a cell of the matrix fail: by ends of the graph that keep fusion, or by where Q/DQ ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import model_file
from mbdeploy.errors import StepError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.stages.bisect_runs import Cell, Values, diverges, measure, open_here, run_parts
from mbdeploy.tracing.cuts import Cut, end_at, find_float, list_cuts, quantize_only
from mbdeploy.tracing.search import find_first

_IMAGES = 4


class Divergence(msgspec.Struct, frozen=True, kw_only=True):
    """Where a failing cell begins to fail.

    ``cause`` is "runtime" (a node is executed otherwise than the file says: ``before`` and ``after`` are SQNRs of
    executed against exact, in dB, of what the node reads and of what it makes), "rounding" (an 8-bit activation after
    which the gate ``measure`` does not hold: its value without and with it) or "file" (no node alone: ``note`` says).
    """

    subject: str
    cause: Literal["runtime", "rounding", "file"]
    measure: str
    node: str = ""
    operator: str = ""
    tensor: str = ""
    before: float = float("nan")
    after: float = float("nan")
    after_lsb: float | None = None
    note: str = ""


class Traced(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A divergence with what a reduction starts from; ``exact`` are the exact values of the cuts, by tensor.

    ``cell`` is down to the images that were traced, in its inputs and in the reference's outputs.
    """

    divergence: Divergence
    model: onnx.ModelProto
    cuts: tuple[Cut, ...] = ()
    place: int = -1
    exact: Mapping[str, Values] = {}
    cell: Cell


def trace(cell: Cell, on_progress: Progress = ignore_progress) -> Traced:
    """``find_divergence``, or why it cannot be done: a part of the graph that the runtime refuses."""
    try:
        return find_divergence(cell, on_progress)
    except StepError as error:
        return _give_up(cell, onnx.ModelProto(), f"it cannot be traced: {error.found}")


def find_divergence(cell: Cell, on_progress: Progress = ignore_progress) -> Traced:
    """Find the first node that diverges in a failing cell.

    Rules: 1. where the executed outputs differ from the exact ones by more than the gates allow, the graph is ended
    at one tensor after the other that its optimised form has too, and run as the cell was; no tensor of a graph that
    is optimised is ever marked as an output besides its end. 2. Else a file with Q/DQ is at fault itself: it is run,
    exact, with Q/DQ up to a tensor and float after it. 3. Images are those with the largest error, at most four.
    """
    model = model_file.load_whole(cell.model)
    cuts = list_cuts(model)
    chosen = _choose_images(cell)
    cell = msgspec.structs.replace(cell, inputs=cell.inputs[chosen], expected=cell.expected[chosen])
    if not any(node.op_type.startswith("QLinear") for node in model.graph.node):
        found = _trace_runtime(cell, model, cuts, on_progress)
        if found is not None:
            return found
    if any(cut.scale is not None for cut in cuts):
        return _trace_rounding(cell, model, cuts)
    note = "its exact outputs fail too: the file itself differs from the reference, whatever runs it"
    return _give_up(cell, model, note)


def _choose_images(cell: Cell) -> NDArray[np.int64]:
    executed, exact, expected = (
        values.reshape(len(values), -1).astype(np.float64) for values in (cell.executed, cell.exact, cell.expected)
    )
    error = np.nan_to_num(np.abs(executed - exact), nan=np.inf).max(axis=1)
    if not error.any():
        error = np.nan_to_num(np.abs(exact - expected), nan=np.inf).max(axis=1)
    return np.sort(np.argsort(-error, kind="stable")[:_IMAGES])


def _trace_runtime(cell: Cell, model: onnx.ModelProto, cuts: Sequence[Cut], on_progress: Progress) -> Traced | None:
    """The first cut whose executed values differ from the exact ones beyond rounding; None if the last does not."""
    exact, ideal = _run_exact(cell, model, cuts)
    index = {cut.tensor: place for place, cut in enumerate(cuts)}
    measured: dict[int, tuple[float, float | None]] = {}

    def probe(places: Sequence[int]) -> dict[int, bool]:
        parts = [end_at(model, [cuts[place].tensor]) for place in places]
        outputs = run_parts(cell.session, cell.target, [part for part in parts if part], cell.inputs, on_progress)
        failing = {}
        for place, (found, *_) in zip(places, outputs, strict=True):
            cut = cuts[place]
            values = cut.decode(found)
            failing[place] = diverges(cut, values, exact[cut.tensor], ideal.get(cut.tensor), cell)
            measured[place] = measure(cut, values, exact[cut.tensor])
        return failing

    sources = [[index[name] for name in cut.sources if name in index] for cut in cuts]
    ends = [place for place, cut in enumerate(cuts) if _leads_to(cut, model, cell.index)]
    last = max(ends, default=len(cuts) - 1)
    place = find_first(last + 1, probe, sources)
    if place is None:
        return None
    cut = cuts[place]
    divergence = Divergence(
        subject=cell.name,
        cause="runtime",
        measure="SQNR of executed against exact, dB",
        node=cut.node,
        operator=cut.operator,
        tensor=cut.tensor,
        before=min((measured[one][0] for one in sources[place]), default=float("inf")),
        after=measured[place][0],
        after_lsb=measured[place][1],
    )
    return Traced(
        divergence=divergence,
        model=model,
        cuts=tuple(cuts),
        place=place,
        exact=exact,
        cell=cell,
    )


def _trace_rounding(cell: Cell, model: onnx.ModelProto, cuts: Sequence[Cut]) -> Traced:
    """The first 8-bit activation with which the gate does not hold although it holds with those before it."""
    steps = [cut for cut in cuts if cut.scale is not None]
    gate = next((check for check in cell.failed if check.name in ("sqnr_db", "top1_agreement")), None)
    if gate is None:
        return _give_up(cell, model, "its executed outputs differ from the exact ones in no tensor that could be cut")
    session, here = open_here(cell.session)
    entry = [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] == model.graph.input[0].name
    ]
    values: dict[int, float] = {}

    def probe(places: Sequence[int]) -> dict[int, bool]:
        parts = [quantize_only(model, {*entry, *(cut.tensor for cut in steps[:place])}) for place in places]
        for place, outputs in zip(places, run_parts(session, here, parts, cell.inputs), strict=True):
            metrics = compare_outputs(cell.expected, outputs[cell.index])
            value = getattr(metrics, gate.name)
            values[place] = float("nan") if value is None else value
        return {place: not values[place] >= gate.bound for place in places}

    place = find_first(len(steps) + 1, probe, [[k - 1] if k else [] for k in range(len(steps) + 1)])
    if place is None:
        return _give_up(cell, model, f"the gate holds on the {len(cell.inputs)} images with the largest error")
    if place == 0:
        note = f"{gate.name} is {values[0]:.4g} with no activation rounded: weights, biases or ranges are at fault"
        return _give_up(cell, model, note)
    cut = steps[place - 1]
    divergence = Divergence(
        subject=cell.name,
        cause="rounding",
        measure=gate.name,
        node=cut.node,
        operator=cut.operator,
        tensor=cut.tensor,
        before=values[place - 1],
        after=values[place],
    )
    return Traced(
        divergence=divergence,
        model=model,
        cuts=(*(Cut(tensor=name, node="", operator="", sources=(), scale=1.0) for name in entry), *steps),
        place=len(entry) + place - 1,
        cell=cell,
    )


def _run_exact(cell: Cell, model: onnx.ModelProto, cuts: Sequence[Cut]) -> tuple[dict[str, Values], dict[str, Values]]:
    """The exact values of all cuts, and in an 8-bit graph the unrounded ones: not optimised, so nothing is undone."""
    session, here = open_here(cell.session)
    quantized = any(cut.scale is not None for cut in cuts)
    parts = [end_at(model, [cut.tensor for cut in cuts])]
    if quantized:
        parts.append(end_at(quantize_only(model, ()), [find_float(cut) for cut in cuts]))
    runs = run_parts(session, here, [part for part in parts if part], cell.inputs)
    exact = {cut.tensor: cut.decode(found) for cut, found in zip(cuts, runs[0], strict=True)}
    ideal = {cut.tensor: found for cut, found in zip(cuts, runs[1], strict=True)} if quantized else {}
    return exact, ideal


def _leads_to(cut: Cut, model: onnx.ModelProto, index: int) -> bool:
    """Whether the cut is the graph's output of that number, or its 8-bit form."""
    name = model.graph.output[index].name
    maker = next((node for node in model.graph.node if name in node.output), None)
    return cut.tensor == name or (maker is not None and cut.tensor in maker.input)


def _give_up(cell: Cell, model: onnx.ModelProto, note: str) -> Traced:
    divergence = Divergence(subject=cell.name, cause="file", measure=", ".join(c.name for c in cell.failed), note=note)
    return Traced(divergence=divergence, model=model, cell=cell)
