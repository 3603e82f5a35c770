"""The verify stage: every variant on every provider, as executed and exact, against golden outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.card import Budgets
from mbdeploy.data import open_dataset
from mbdeploy.estimate import estimate_ratio_of_sums
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.metrics import check, compare_outputs, sum_errors
from mbdeploy.results import Check, Host, Metrics, Mode, ParityReport, ParityRow
from mbdeploy.stages.reference import Reference, find_golden, load_reference
from mbdeploy.stages.subject import Kind, Subject, entitle, plan_session, read_subjects
from mbdeploy.targets import Answer, Job, Provider, Ran, Target, open_target, parse_provider

#: Kind of variant -> its gates over the executed outputs: (metric, comparison, the budget that bounds it).
GATES: Mapping[Kind, tuple[tuple[str, Literal[">=", "<="], str], ...]] = {
    "fp32": (("max_abs", "<=", "export_max_abs"),),
    "simplified": (("max_abs", "<=", "simplify_max_abs"),),
    "int8": (("sqnr_db", ">=", "int8_sqnr_db"), ("top1_agreement", ">=", "int8_top1_agreement")),
}

#: A gap between executed and exact that no rounding makes, however few the images: twice the error.
_NEVER_ROUNDING_DB = 3.0


def verify(
    models: Sequence[Path],
    *,
    golden: Path | None = None,
    reference: Path | None = None,
    data: str | None = None,
    preprocess: str | None = None,
    num_samples: int = 64,
    providers: Sequence[str] = ("cpu",),
    budgets: Budgets | None = None,
    kind: Kind | None = None,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    on_progress: Progress = ignore_progress,
) -> ParityReport:
    """Run ``models`` on ``providers`` and compare their outputs, in order, with the reference's.

    Rules: 1. the reference is ``golden``, or the FP32 ONNX file ``reference`` run on this CPU over
    ``data``; with neither it is golden.npz beside the first model. At most ``num_samples`` images are used.
    2. ``kind`` says which gates of ``budgets`` hold; without it each file's own metadata does, and a file
    with quantizing nodes is int8. 3. Executed INT8 outputs are also compared with the exact ones of the
    same file, so that saturation is a number of its own. 4. On an emulated target only the executed mode
    runs; its exact outputs, which are float arithmetic, come from this machine's CPU.

    Raises:
        UnavailableError: a provider that is not here, or that takes no node of a model.
        StepError: a model that the runtime refuses, or that crashes or hangs it.
        UsageError, ModelError, DataError: inputs that contradict each other or cannot be used.
    """
    subjects = read_subjects(models, kind)
    opened = [(provider, open_target(provider)) for provider in map(parse_provider, dict.fromkeys(providers))]
    against = load_reference(
        subjects, golden=golden, reference=reference, data=data, preprocess=preprocess, num_samples=num_samples
    )
    settings = {"threads": threads, "provider_options": provider_options, "session_config": session_config}
    rows: list[ParityRow] = []
    checks: list[Check] = []
    hosts: dict[str, Host] = {}
    exact_here: Sequence[Ran] = ()
    for provider, target in opened:
        if target.emulated and not exact_here:
            here = parse_provider("cpu")
            exact_here = _run(subjects, ("exact",), here, open_target(here), against, {}, on_progress).sessions
        modes: tuple[Mode, ...] = ("executed",) if target.emulated else ("executed", "exact")
        answer = _run(subjects, modes, provider, target, against, settings, on_progress)
        hosts[provider.word] = answer.host
        exact = exact_here if target.emulated else answer.sessions[len(subjects) :]
        for subject, ran, ideal in zip(subjects, answer.sessions, exact, strict=False):
            for index in range(len(against.outputs)):
                cell = _compare(subject, provider.word, index, ran, ideal, against, borrowed=target.emulated)
                rows += _list_rows(cell)
                checks += _list_checks(cell, budgets or Budgets())
    return ParityReport(reference=against.name, rows=tuple(rows), checks=tuple(checks), hosts=hosts)


def plan(
    models: Sequence[Path],
    *,
    golden: Path | None = None,
    reference: Path | None = None,
    data: str | None = None,
    preprocess: str | None = None,
    num_samples: int = 64,
    providers: Sequence[str] = ("cpu",),
    budgets: Budgets | None = None,
    kind: Kind | None = None,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
) -> Provenance:
    """What ``verify`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": artifact.digest_file(path) for index, path in enumerate(models)}
    beside = find_golden(models[0], golden) if reference is None else None
    for role, path in (("golden", beside), ("reference", reference)):
        if path is not None:
            parents[role] = artifact.digest_file(path)
    if data is not None:
        parents["data"] = open_dataset(data, split="check", limit=num_samples).digest()
    return Provenance(
        stage="verify",
        params={
            "preprocess": preprocess,
            "num_samples": num_samples,
            "providers": list(providers),
            "budgets": msgspec.to_builtins(budgets or Budgets()),
            "kind": kind,
            "threads": threads,
            "provider_options": dict(provider_options or {}),
            "session_config": dict(session_config or {}),
        },
        parents=parents,
        tools=artifact.read_tools("onnxruntime", "numpy"),
    )


def _run(
    subjects: Sequence[Subject],
    modes: Sequence[Mode],
    provider: Provider,
    target: Target,
    against: Reference,
    settings: Mapping[str, Any],
    on_progress: Progress,
) -> Answer:
    """One job: all subjects in the first mode, then all in the second."""
    job = Job(
        kind="infer",
        sessions=tuple(
            plan_session(subject, provider, mode=mode, **settings) for mode in modes for subject in subjects
        ),
        inputs=against.inputs,
    )
    return target.run(job, entitle(on_progress, f"verify on {provider.word}"))


class _Cell(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One output of one subject on one provider: as executed, exact, and the one against the other.

    ``expected`` are the reference's outputs, ``index`` is the place of this one among the model's.
    ``borrowed`` says that the exact outputs were computed on this machine's CPU and not by the provider.
    """

    subject: Subject
    provider: str
    output: str
    name: str
    index: int
    expected: NDArray[Any]
    ran: Ran
    ideal: Ran
    executed: Metrics
    exact: Metrics
    saturation: Metrics
    borrowed: bool


def _compare(
    subject: Subject, provider: str, index: int, ran: Ran, ideal: Ran, against: Reference, *, borrowed: bool
) -> _Cell:
    expected, executed, exact = against.outputs[index], ran.outputs[index], ideal.outputs[index]
    scale = subject.output_scales[index]
    output = ran.output_names[index]
    return _Cell(
        subject=subject,
        provider=provider,
        output=output,
        name=f"{subject.ref.name} on {provider}" + (f", output {output}" if len(against.outputs) > 1 else ""),
        index=index,
        expected=expected,
        ran=ran,
        ideal=ideal,
        executed=compare_outputs(expected, executed, scale),
        exact=compare_outputs(expected, exact, scale),
        saturation=compare_outputs(exact, executed, scale),
        borrowed=borrowed,
    )


def _judge_gap(cell: _Cell, bound: float) -> Check:
    """The gate on saturation: how many dB the executed outputs lie below the exact ones.

    Rules: 1. two infinite SQNRs (outputs equal to the reference) have no difference, not NaN. 2. Both round, in places
    of their own, so that few images scatter the gap either way: beyond the bound it is inconclusive (None), unless
    the ratio of their errors, image by image, is above 1 with 99 % confidence. 3. Twice the error is never rounding.
    """
    above, below = cell.exact.sqnr_db, cell.executed.sqnr_db
    gate = check("exact_gap_db", cell.name, 0.0 if above == below else above - below, bound, "<=")
    notes = ["exact on this machine's CPU"] if cell.borrowed else []
    if not gate.passed and gate.value < _NEVER_ROUNDING_DB:  # so it is a number, and the outputs can be compared
        executed, exact = (sum_errors(cell.expected, ran.outputs[cell.index]) for ran in (cell.ran, cell.ideal))
        if estimate_ratio_of_sums(executed, exact).low <= 1:
            gate = msgspec.structs.replace(gate, passed=None)
            notes.append(f"{len(exact)} images cannot tell it from rounding; give more with --num-samples")
    return msgspec.structs.replace(gate, note="; ".join(notes))


def _list_rows(cell: _Cell) -> list[ParityRow]:
    rows = [_make_row(cell, "executed", cell.executed)]
    if not cell.borrowed:
        rows.append(_make_row(cell, "exact", cell.exact))
    if cell.subject.kind == "int8":
        rows.append(msgspec.structs.replace(_make_row(cell, "executed", cell.saturation), against="exact"))
    return rows


def _make_row(cell: _Cell, mode: Mode, metrics: Metrics) -> ParityRow:
    ran = cell.ran if mode == "executed" else cell.ideal
    return ParityRow(
        model=cell.subject.ref,
        provider=cell.provider,
        mode=mode,
        output=cell.output,
        metrics=metrics,
        placement=ran.placement,
        session=ran.settings,
    )


def _list_checks(cell: _Cell, budgets: Budgets) -> list[Check]:
    """The gates of the subject's kind; of an output without classes no agreement is asked."""
    checks = []
    for metric, comparison, budget in GATES[cell.subject.kind]:
        value, bound = getattr(cell.executed, metric), getattr(budgets, budget)
        if value is not None or cell.executed.degenerate or bound > 0:
            checks.append(check(metric, cell.name, value, bound, comparison))
    if cell.subject.kind == "int8":
        checks.append(_judge_gap(cell, budgets.int8_exact_gap_db))
    reason = cell.executed.degenerate
    return [msgspec.structs.replace(gate, note=reason) for gate in checks] if reason else checks
