"""The audit stage: whether an INT8 file of any tool gives the same answers everywhere, and a repaired copy of it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.auditing.cpus import find_hazards
from mbdeploy.auditing.report import AuditReport, Examined, RepairRecord
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.model_file import describe_model, digest_model
from mbdeploy.stages.audit_runs import File, Runs, run_files
from mbdeploy.watch import Limits

_AUDIT_STEP = "mbdeploy.stages.audit_job:audit_file"
_LIMITS = Limits(wall_s=1800.0)


def audit(
    model: Path,
    *,
    output: Path | None = None,
    repair: bool = False,
    against: Path | None = None,
    data: str | None = None,
    preprocess: str | None = None,
    num_samples: int = 16,
    providers: Sequence[str] = ("cpu",),
    threads: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> AuditReport:
    """Look for all that makes an INT8 file answer otherwise on another CPU, or wrongly; with ``repair``, mend it.

    Rules: 1. Q/DQ and QOperator files of any tool are judged by their stored integers; with ``data``, outputs
    that do clip are counted on at most ``num_samples`` images, which also run on ``providers``, as executed and
    exact. Without, ``seed`` draws noise for that. Nodes are timed over the same images, or over noise, because values
    do not change the time. 2. ``repair`` writes a safe copy to ``output`` with its sidecar; layers that are safe
    already stay as they are. Weights come from the file itself, or from the float model ``against``, with which
    outputs are compared too. 3. ``passed`` of the report speaks of the repaired file where there is one.

    Raises:
        UsageError: options that contradict each other. ModelError: no quantized ONNX model, or float weights that
        do not match. DataError: unusable images. OutputError: nowhere to write. UnavailableError: a provider that is
        not here. StepError: the native step crashed, hung or ran out of memory.
    """
    _check_options(model, output, repair=repair)
    provenance = plan(model, against=against)
    with tempfile.TemporaryDirectory(prefix="mbdeploy-audit-") as scratch:
        request = {
            "model": str(model),
            "output": None,
            "against": None if against is None else str(against),
            "data": data,
            "preprocess": preprocess,
            "num_samples": num_samples,
            "seed": seed,
            "threads": threads,
            "scratch": scratch,
            "provenance": msgspec.to_builtins(provenance),
        }
        if output is None:
            made = _run(request, model, limits, on_progress)
        else:
            with artifact.writing(output) as temporary:
                made = _run({**request, "output": str(temporary)}, model, limits, on_progress)
    examined = msgspec.convert(made["examined"], Examined)
    record = msgspec.convert(made["repair"], RepairRecord) if output else None
    repaired = msgspec.convert(made["repaired"], Examined) if output else None
    files: dict[File, Path] = {"input": model} if output is None else {"input": model, "repaired": output}
    runs = Runs(inputs=_say_refused(examined), images=0, rows=(), hosts={})
    if not any(finding.rule == "MB310" for finding in examined.findings):
        runs = run_files(
            files,
            integer="QOperator" in examined.form,
            saturates=any("pairs" in find_hazards(layer.kind).values() for layer in examined.layers),
            against=against,
            data=data,
            preprocess=preprocess,
            num_samples=num_samples,
            providers=providers,
            threads=threads,
            seed=seed,
            on_progress=on_progress,
        )
    report = AuditReport(
        model=describe_model(model),
        verdict=judge(repaired or examined),
        examined=examined,
        inputs=runs.inputs,
        images=runs.images,
        runs=runs.rows,
        hosts=runs.hosts,
        repair=record,
        repaired=repaired,
    )
    if output is not None:
        artifact.write_sidecar(output, provenance, report)
    return report


def plan(model: Path, *, against: Path | None = None) -> Provenance:
    """What a repair would be made from: the provenance of the file it writes."""
    parents = {}
    for role, path in (("model", model), ("against", against)):
        if path is not None:
            if not path.is_file():
                raise ModelError(where=path, expected="an ONNX model", found="no such file", todo="check the path")
            parents[role] = digest_model(path)
    return Provenance(
        stage="audit", params={"repair": True}, parents=parents, tools=artifact.read_tools("onnx", "numpy")
    )


def judge(examined: Examined) -> str:
    """The verdict in one line."""
    count, total = examined.clipping, len(examined.layers)
    unknown = f"; {len(examined.unjudged)} more could not be judged" if examined.unjudged else ""
    if count:
        return f"the same answers on every CPU: no, {count} of {total} layers can clip{unknown}"
    sure = "unknown" if examined.unjudged else "yes"
    return f"the same answers on every CPU: {sure}, 0 of {total} layers can clip{unknown}"


def _check_options(model: Path, output: Path | None, *, repair: bool) -> None:
    if repair != (output is not None):
        raise UsageError(
            where="--output",
            expected="a place for the repaired file, with --repair and only with it",
            found="one without the other",
            todo="give both, or neither",
        )
    if output is not None and model.exists() and output.exists() and output.samefile(model):
        raise UsageError(
            where=output,
            expected="another file than the one that is audited",
            found="the same",
            todo="choose another place with --output",
        )


def _run(request: Mapping[str, Any], model: Path, limits: Limits | None, on_progress: Progress) -> dict[str, Any]:
    outcome = run_step(_AUDIT_STEP, request, limits=limits or _LIMITS, on_progress=on_progress)
    answer: dict[str, Any] = demand_value(
        outcome,
        where=model,
        expected="an audit to run to its end",
        todo="check how the file was made (`python -m onnx.checker` on it may say more)",
    )
    return answer


def _say_refused(examined: Examined) -> str:
    return next((f"none: {spot.text}" for item in examined.findings if item.rule == "MB310" for spot in item.spots), "")
