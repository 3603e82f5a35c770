"""Simplify an ONNX file: onnxsim in a child, then our rewrites; nothing is believed before outputs are compared."""

from __future__ import annotations

import shutil
import tempfile
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from mbdeploy.artifact import Provenance, digest_file, read_tools, write_sidecar, writing
from mbdeploy.errors import ModelError, StepError, UsageError
from mbdeploy.isolate import Outcome, Progress, Verdict, demand_value, ignore_progress, run_step
from mbdeploy.model_file import (
    QUANTIZED_OPSET,
    digest_model,
    dump_json,
    read_opset,
    read_signature,
)
from mbdeploy.preflight import check_model, copying
from mbdeploy.records import Rewrite, SimplifyRecord
from mbdeploy.rewrites import list_rewrites
from mbdeploy.watch import Limits

if TYPE_CHECKING:
    from mbdeploy.model_file import Signature

_ONNXSIM_STEP = "mbdeploy.stages.simplify_steps:run_onnxsim"
_SIZE_STEP = "mbdeploy.stages.simplify_steps:fix_size"
_OPSET_STEP = "mbdeploy.stages.simplify_steps:raise_opset"
_FINISH_STEP = "mbdeploy.stages.simplify_steps:finish_attempt"
_ONNXSIM_LIMITS = Limits(wall_s=300.0)
#: onnxsim is shown two batch sizes; primes that no layer is likely to have as a channel count or a stride.
_BATCHES = (7, 11)
#: What the record says of onnxsim when the outputs are not those of the input model.
CHANGED = "CHANGED"


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One way of simplifying: with onnxsim or not, the batch fixed for it or not, with our rewrites or not."""

    name: str
    onnxsim: bool = True
    fixes_batch: bool = False
    rewrites: bool = True


#: The first one whose outputs are right is taken. The last one changes nothing, so it is always right.
ATTEMPTS = (
    Attempt(name="fixed batch", fixes_batch=True),
    Attempt(name="as it is"),
    Attempt(name="rewrites only", onnxsim=False),
    Attempt(name="input kept", onnxsim=False, rewrites=False),
)


class _Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt went: its verdict, and either what its last step answered or why there is nothing."""

    attempt: Attempt
    verdict: str
    detail: str = ""
    answer: dict[str, Any] = {}


def simplify(
    model: Path,
    *,
    output: Path,
    golden: Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    opset: int = QUANTIZED_OPSET,
    strict: bool = False,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> SimplifyRecord:
    """Write to ``output`` a smaller graph that computes the same as ``model``, and say what was changed.

    A dynamic batch stays dynamic. ``input_shape`` (C, H, W) is what the image gets where the file leaves its axes open,
    so that what follows from its size can be folded; the file then takes images of this size only. A file of an older
    opset is raised to ``opset``, if that changes no output. Outputs are compared with those of ``model`` at batch 1
    and 3, on images of ``golden`` or else on made-up ones. ``limits`` are those of the child that onnxsim runs
    in. If onnxsim crashes, hangs or changes the outputs, the file is simplified without it, or kept
    as it is, and ``record.onnxsim`` says so instead of ``"OK"``; a caller that asked for ``strict``
    takes that as a failure.

    Raises:
        ModelError: not a model that this tool or ONNX Runtime can use; outputs that are not finite.
        DataError: golden inputs that cannot be used, or do not fit the model.
        UsageError: ``input_shape`` is not the size that the file fixes.
        StepError: ONNX Runtime crashed or hung on ``model`` itself.
        OutputError: the result cannot be written.
    """
    checked = check_model(model)
    if output.resolve() == model.resolve():
        raise UsageError(
            where=output,
            expected="an output that is another file than the model",
            found="the same file",
            todo="choose another name with --output",
        )
    signature = read_signature(checked.model, model)
    provenance = plan(model, golden=golden, input_shape=input_shape, opset=opset, strict=strict)
    failed: list[_Trial] = []
    with (
        tempfile.TemporaryDirectory(prefix="mbdeploy-simplify-") as folder,
        copying(model, checked.companions) as source,
    ):
        scratch, limits = Path(folder), limits or _ONNXSIM_LIMITS
        if input_shape is not None:
            source = _fix_image(source, signature, input_shape, scratch, model, limits)
        request: dict[str, Any] = {
            "model": str(source),
            "golden": None if golden is None else str(golden),
            "output": str(scratch / "candidate.onnx"),
            "metadata": {"mbdeploy.stage": "simplified", "mbdeploy.provenance": dump_json(provenance)},
        }
        starts, detail = [source], ""
        if 0 < read_opset(checked.model) < opset:
            raised, detail = _raise_opset(source, opset, scratch, limits)
            starts = [*raised, source]
        for index, (start, attempt) in enumerate(product(starts, ATTEMPTS)):
            if not _is_worth_trying(attempt, signature, failed):
                continue
            on_progress(f"simplify: {attempt.name}", index, len(starts) * len(ATTEMPTS))
            request["start"] = str(start)
            trial = _run_attempt(attempt, signature, request, limits, scratch)
            if trial.verdict == Verdict.OK:
                break
            failed.append(trial)
        else:
            raise StepError(
                where=model,
                expected="a model that ONNX Runtime can run",
                found=f"{failed[-1].verdict}: {failed[-1].detail}",
                todo="check how the file was made; ONNX Runtime cannot run it as it is",
            )
        record = _make_record(trial, failed, detail)
        with writing(output) as temporary:
            shutil.copyfile(request["output"], temporary)
    write_sidecar(output, provenance, record)
    on_progress("simplify", len(ATTEMPTS), len(ATTEMPTS))
    return record


def plan(
    model: Path,
    *,
    golden: Path | None = None,
    input_shape: tuple[int, int, int] | None = None,
    opset: int = QUANTIZED_OPSET,
    strict: bool = False,
) -> Provenance:
    """What ``simplify`` would record of how its output came to be; cheap, for asking whether a file is fresh.

    Raises:
        ModelError: there is no such file.
    """
    try:
        digests = {"model": digest_model(model)} | ({} if golden is None else {"golden": digest_file(golden)})
    except OSError as error:
        raise ModelError(
            where=error.filename,
            expected="a file to simplify, and golden inputs if they are named",
            found=(error.strerror or str(error)).lower(),
            todo="check the path and its permissions",
        ) from error
    return Provenance(
        stage="simplify",
        params={"rewrites": list_rewrites(), "input_shape": input_shape, "opset": opset, "strict": strict},
        parents=digests,
        tools=read_tools("onnx", "onnx-ir", "onnxruntime", "onnxscript", "onnxsim"),
    )


def _fix_image(
    source: Path, signature: Signature, shape: tuple[int, int, int], scratch: Path, where: Path, limits: Limits
) -> Path:
    """A copy of the model that takes images of one size."""
    path = scratch / "fixed.onnx"
    told = {"model": str(source), "input": signature.input, "shape": shape, "where": str(where), "output": str(path)}
    demand_value(
        run_step(_SIZE_STEP, told, limits=limits),
        where=where,
        expected="a model that can be written anew, of 2 GiB at most",
        todo="simplify it without --input-shape",
    )
    return path


def _raise_opset(source: Path, opset: int, scratch: Path, limits: Limits) -> tuple[list[Path], str]:
    """The model under a newer opset, or none and why."""
    path = scratch / "raised.onnx"
    outcome = run_step(_OPSET_STEP, {"model": str(source), "opset": opset, "output": str(path)}, limits=limits)
    if outcome.verdict is Verdict.OK:
        return [path], ""
    return [], f"opset {opset}: {outcome.verdict.value}, {outcome.detail}"


def _is_worth_trying(attempt: Attempt, signature: Signature, failed: list[_Trial]) -> bool:
    if attempt.fixes_batch and signature.batch is not None:
        return False
    costly = {Verdict.TIMEOUT, Verdict.OOM}
    return not (attempt.onnxsim and any(trial.verdict in costly for trial in failed))


def _run_attempt(
    attempt: Attempt, signature: Signature, request: dict[str, Any], limits: Limits, scratch: Path
) -> _Trial:
    jobs: list[dict[str, Any]] = []
    if attempt.onnxsim:
        batches = _BATCHES if attempt.fixes_batch else (None,)
        jobs = [{"batch": batch, "output": str(scratch / f"onnxsim-{batch or 'as-is'}.onnx")} for batch in batches]
        told = {"model": request["start"], "input": signature.input, "jobs": jobs}
        simplified = run_step(_ONNXSIM_STEP, told, limits=limits)
        if simplified.verdict is not Verdict.OK:
            return _fail(attempt, simplified)
    candidates = [job["output"] for job in jobs]
    rewrites = list_rewrites() if attempt.rewrites else []
    finished = run_step(_FINISH_STEP, {**request, "candidates": candidates, "rewrites": rewrites})
    if finished.verdict is not Verdict.OK:
        return _fail(attempt, finished)
    answer: dict[str, Any] = finished.value
    verdict = CHANGED if answer["wrong"] else Verdict.OK.value
    return _Trial(attempt=attempt, verdict=verdict, detail=answer["wrong"] or answer["note"], answer=answer)


def _fail(attempt: Attempt, outcome: Outcome) -> _Trial:
    return _Trial(attempt=attempt, verdict=outcome.verdict.value, detail=outcome.detail)


def _make_record(taken: _Trial, failed: list[_Trial], detail: str) -> SimplifyRecord:
    reasons = [detail] if detail else []
    reasons += [f"{trial.attempt.name}: {trial.verdict}, {trial.detail}" for trial in failed]
    return SimplifyRecord(
        onnxsim=taken.verdict if taken.attempt.onnxsim else failed[0].verdict,
        attempt=taken.attempt.name,
        detail="; ".join([*reasons, taken.detail] if taken.detail else reasons),
        rewrites=msgspec.convert(taken.answer["rewrites"], tuple[Rewrite, ...]),
        operators_before=taken.answer["operators_before"],
        operators_after=taken.answer["operators_after"],
        max_abs=taken.answer["max_abs"],
        opsets=tuple(taken.answer["opsets"]),
    )
