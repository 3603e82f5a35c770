"""The smallest part of a model that still fails, with its inputs and a script that shows it without mbdeploy."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.errors import StepError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.stages.bisect import Traced
from mbdeploy.stages.bisect_runs import run_parts
from mbdeploy.targets import Session, Target
from mbdeploy.targets.process import ProcessTarget
from mbdeploy.targets.providers import find_row
from mbdeploy.tracing.cuts import Cut, end_at, quantize_only
from mbdeploy.tracing.faults import holds_bound, measure_fault
from mbdeploy.tracing.script import Judgement, Opening, write_script

_LEVELS = {"none": "DISABLE_ALL", "basic": "ENABLE_BASIC", "extended": "ENABLE_EXTENDED", "all": "ENABLE_ALL"}
_STARTS = 4
_SLACK_DB = 3.0
_NONE = "ORT_DISABLE_ALL"


class _Part(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    models: dict[str, onnx.ModelProto]
    inputs: NDArray[Any]
    expected: NDArray[Any]
    sessions: dict[str, Any]
    story: str
    scale: float | None
    zero_point: int
    judgement: Judgement


def reduce(traced: Traced, folder: Path, on_progress: Progress = ignore_progress) -> Path | None:
    """Write the smallest failing part of a traced cell into a folder of its own below ``folder``.

    Rules: 1. of a node that is executed wrongly: the graph from one of the tensors nearest before it to the node's
    own output, the shortest that still fails on the cell's target; in the worst case from the model's input. 2. Of a
    rounded activation: the whole graph with and without it. 3. None where no node was found. 4. show.py, beside the
    models and arrays.npz, needs numpy, onnxruntime, and the provider's own package where it has one. It judges by what
    failed, and its exit code is 10 where it sees the difference, which no crash of it has.

    Raises:
        OutputError: the folder cannot be written.
    """
    found = traced.divergence
    if found.cause == "file":
        return None
    part = _cut_out(traced, on_progress) if found.cause == "runtime" else _split(traced)
    session = traced.cell.session
    place = folder / re.sub(r"[^\w.-]+", "_", found.subject, flags=re.ASCII).strip("_.")
    opening, plug_in = _find_opening(session)
    versions = artifact.read_tools("onnxruntime", plug_in) if plug_in else artifact.read_tools("onnxruntime")
    script = write_script(
        command=_quote(_compose_command(traced.cell.target)),
        story=_quote(part.story),
        opening=opening,
        plug_in=plug_in,
        version=versions["onnxruntime"],
        provider_version=versions.get(plug_in, ""),
        provider=session.provider,
        provider_options=dict(session.provider_options),
        threads=session.threads,
        sessions=part.sessions,
        scale=part.scale,
        judgement=part.judgement,
    )
    arrays = io.BytesIO()
    np.savez(arrays, x=part.inputs, expected=part.expected, zero_point=np.int64(part.zero_point))
    for name, model in part.models.items():
        artifact.write_bytes(place / name, model.SerializeToString(deterministic=True))
    artifact.write_bytes(place / "arrays.npz", arrays.getvalue())
    artifact.write_bytes(place / "show.py", script.encode())
    return place


def _find_opening(session: Session) -> tuple[Opening, str]:
    """How a script opens the session's provider, and the package beside ONNX Runtime that it then needs."""
    row = find_row(session.provider)
    if row is None or not row.beside:
        return "built in", ""
    return ("openvino" if session.runtime == "openvino" else "plug-in"), row.wheel


def _compose_command(target: Target) -> str:
    """How the script is run where the cell was."""
    if isinstance(target, ProcessTarget) and target.emulated:
        return " ".join((*target.command, "show.py"))
    return "python show.py" + ("" if target.name == "local" else f"   (on {target.name})")


def _cut_out(traced: Traced, on_progress: Progress) -> _Part:
    """The graph that ends at the diverging cut, from the nearest tensor with which it still diverges."""
    cell, cut = traced.cell, traced.cuts[traced.place]
    expected = traced.exact[cut.tensor]
    whole = end_at(traced.model, [cut.tensor])
    assert whole is not None
    chosen, inputs, start = whole, cell.inputs, traced.model.graph.input[0].name
    executed, *_ = run_parts(cell.session, cell.target, [whole], inputs, on_progress)[0]
    judgement = _bound_fault(expected, cut.decode(executed))
    for before in _list_starts(traced, cut):
        values = traced.exact[before.tensor]
        part = end_at(traced.model, [cut.tensor], before.tensor, values.shape[1:])
        assert part is not None
        try:
            executed, *_ = run_parts(cell.session, cell.target, [part], values, on_progress)[0]
        except StepError:  # no part that this runtime takes: a longer one may be
            continue
        value = measure_fault(judgement.metric, expected, cut.decode(executed))
        if not holds_bound(judgement.metric, value, judgement.bound):
            chosen, inputs, start = part, values, before.tensor
            break
    session, found = cell.session, traced.divergence
    failing = ("model.onnx", f"ORT_{_LEVELS[session.optimization]}", dict(session.session_config), True)
    words = ", ".join(
        (session.provider, session.optimization, *(f"{key}={value}" for key, value in session.session_config.items()))
    )
    return _Part(
        models={"model.onnx": chosen},
        inputs=inputs,
        expected=expected,
        sessions={"exact (optimisation none)": ("model.onnx", _NONE, {}, False), f"as executed ({words})": failing},
        story=f"{found.subject}: {found.operator} {found.node}, from {start} to {cut.tensor}. Expected: exact values.",
        scale=cut.scale,
        zero_point=cut.zero_point,
        judgement=judgement,
    )


def _bound_fault(expected: NDArray[Any], executed: NDArray[Any]) -> Judgement:
    """What a part must not hold to fail as the node did in its place: within 3 dB of it, or in any way without number.

    Rules: 1. where one of the two is no number, elements that are so are counted. 2. Against zeros SQNR does not
    exist: the largest error counts. 3. Else SQNR.
    """
    if measure_fault("unlike", expected, executed) > 0:
        return Judgement(metric="unlike", bound=0.0)
    db = measure_fault("sqnr_db", expected, executed)
    if not np.isfinite(db):
        return Judgement(metric="max_abs", bound=measure_fault("max_abs", expected, executed) / np.sqrt(2.0).item())
    return Judgement(metric="sqnr_db", bound=db + _SLACK_DB)


def _list_starts(traced: Traced, cut: Cut) -> list[Cut]:
    """The cuts before this one from which alone it can be computed, the nearest first."""
    before = reversed(traced.cuts[: traced.place])
    found = [one for one in before if end_at(traced.model, [cut.tensor], one.tensor) is not None]
    return found[:_STARTS]


def _split(traced: Traced) -> _Part:
    """The graph with Q/DQ up to the activation that fails the gate, and up to the one before."""
    cell, found = traced.cell, traced.divergence
    gate = next(gate for gate in cell.failed if gate.name == found.measure)
    names = [cut.tensor for cut in traced.cuts]
    output = traced.model.graph.output[cell.index].name
    models = {}
    for word, end in (("before", traced.place), ("after", traced.place + 1)):
        part = end_at(quantize_only(traced.model, names[:end]), [output])
        assert part is not None
        models[f"{word}.onnx"] = part
    return _Part(
        models=models,
        inputs=cell.inputs,
        expected=cell.expected,
        sessions={"before": ("before.onnx", _NONE, {}, False), "after": ("after.onnx", _NONE, {}, False)},
        story=f"{found.subject}: {found.measure} is {found.before:.4g} with Q/DQ up to the activation before "
        f"{found.tensor} (of {found.operator} {found.node}), {found.after:.4g} with it. Expected: the reference.",
        scale=None,
        zero_point=0,
        judgement=Judgement(metric=gate.name, bound=gate.bound, refuses_degenerate=True),
    )


def _quote(text: str) -> str:
    """A model's own words, as they may stand in a docstring."""
    return "".join(char if char.isprintable() and char not in '\\"' else "?" for char in text.replace("\n", " "))
