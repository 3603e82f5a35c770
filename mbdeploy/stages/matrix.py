"""The matrix: variants on providers in every way a session can be opened, and where failing cells go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.calls import Call, describe_call
from mbdeploy.card import Budgets, find_budgets
from mbdeploy.derive import join_verdicts
from mbdeploy.errors import StepError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.metrics import check, refuse_metrics
from mbdeploy.results import Check, Host, Metrics
from mbdeploy.stages import bisect, parity, reduce
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.bisect_runs import Cell
from mbdeploy.stages.matrix_runs import DEFAULT, EXACT, Outcome, WaysRun, list_ways, run_ways
from mbdeploy.stages.placement import check_rules, judge_placement, parse_rules
from mbdeploy.stages.reference import Reference, load_reference
from mbdeploy.stages.subject import (
    Kind,
    Subject,
    entitle,
    is_exact_borrowed,
    name_provider,
    plan_session,
    read_subjects,
)
from mbdeploy.targets import Provider, Session, open_target, parse_provider


class MatrixRow(msgspec.Struct, frozen=True, kw_only=True):
    """One cell and output: against the ``reference`` and against the ``exact`` outputs of the same file.

    ``passed`` is what all gates of the cell come to; ``session`` how it was opened. A cell that the runtime refused has
    degenerate metrics, which say why.
    """

    model: str
    provider: str
    way: str
    output: str
    reference: Metrics
    exact: Metrics
    passed: bool | None
    session: dict[str, Any]


class MatrixReport(msgspec.Struct, frozen=True, kw_only=True):
    """All cells, their gates, the first node that diverges in each failing one, and the folders of reductions.

    ``call`` asks for it again (None: not recorded).
    """

    reference: str
    rows: tuple[MatrixRow, ...]
    checks: tuple[Check, ...]
    divergences: tuple[Divergence, ...]
    reduced: tuple[str, ...]
    hosts: dict[str, Host]
    call: Call | None = None
    schema_version: int = 1


def verify_matrix(
    models: Sequence[Path],
    *,
    golden: Path | None = None,
    reference: Path | None = None,
    data: str | None = None,
    preprocess: str | None = None,
    num_samples: int = 64,
    providers: Sequence[str] = ("cpu",),
    budgets: Budgets | str | None = None,
    kind: Kind | None = None,
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
    reduce_to: Path | None = None,
    on_progress: Progress = ignore_progress,
) -> MatrixReport:
    """Do what ``verify`` does in every one of ``WAYS``, and name the first node that diverges in failing cells.

    Rules: 1. gates, references and errors are those of ``verify``; each cell is gated. 2. A provider that compiles the
    graph has only its default way. An emulated target leaves out ``basic`` and ``none``, which are float arithmetic;
    ``none`` is run on this machine's CPU instead. 3. Cells that fail alike, as files and not as executed, are traced
    once. 4. With ``reduce_to`` the smallest failing part of each traced cell is written into a folder there. 5. A
    session that the runtime refuses, or that kills it, is a failing cell, as long as another one runs.
    """
    call = describe_call("verify", locals(), matrix=True)
    bounds = find_budgets(budgets)
    subjects = read_subjects(models, kind)
    rules = parse_rules(require_placement)
    check_rules(rules, providers, [subject.kind for subject in subjects])
    opened = [(provider, open_target(provider)) for provider in map(parse_provider, dict.fromkeys(providers))]
    against = load_reference(
        subjects, golden=golden, reference=reference, data=data, preprocess=preprocess, num_samples=num_samples
    )
    settings: dict[str, Any] = {
        "threads": threads,
        "provider_options": provider_options,
        "session_config": session_config,
        "allow_fallback": allow_fallback,
    }
    for provider, _ in opened:
        plan_session(subjects[0], provider, **settings)
    rows: list[MatrixRow] = []
    checks: list[Check] = []
    failing: list[Cell] = []
    hosts: dict[str, Host] = {}
    here: Sequence[Outcome] = ()
    for provider, target in opened:
        borrowed = is_exact_borrowed(provider, target)
        if borrowed and not here:
            local = parse_provider("cpu")
            here = run_ways(subjects, local, open_target(local), against.inputs, {}, [EXACT], on_progress).ran[EXACT]
        run = run_ways(subjects, provider, target, against.inputs, settings, list_ways(provider, target), on_progress)
        hosts[provider.word] = run.host
        for way in run.ran:
            for number, subject in enumerate(subjects):
                ideal = here[number] if borrowed else run.ran[EXACT][number]
                ran = run.ran[way][number]
                if isinstance(ran, StepError) or isinstance(ideal, StepError):
                    row, gate = _refuse(subject, provider, way, ran if isinstance(ran, StepError) else ideal)
                    rows.append(row)
                    checks.append(gate)
                    continue
                word = name_provider(provider, ran)
                if way == DEFAULT:
                    checks += judge_placement(rules, ran.placement, subject.ref.name, word, subject.kind)
                for index in range(len(against.outputs)):
                    cell = parity.compare_cell(subject, f"{word}, {way}", index, ran, ideal, against, borrowed=borrowed)
                    gates = parity.list_checks(cell, bounds)
                    checks += gates
                    rows.append(_make_row(cell, way, word, gates))
                    if any(gate.passed is False for gate in gates):
                        failing.append(_take(cell, run, run.asked[way][number], against, gates, bounds))
    traced = [bisect.trace(cell, entitle(on_progress, f"trace {cell.name}")) for cell in _drop_alike(failing)]
    reduced = [reduce.reduce(found, reduce_to, on_progress) for found in traced] if reduce_to is not None else []
    return MatrixReport(
        reference=against.name,
        rows=tuple(rows),
        checks=tuple(checks),
        divergences=tuple(found.divergence for found in traced),
        reduced=tuple(str(place) for place in reduced if place is not None),
        hosts=hosts,
        call=call,
    )


def _make_row(cell: parity.Cell, way: str, provider: str, gates: Sequence[Check]) -> MatrixRow:
    return MatrixRow(
        model=cell.subject.ref.name,
        provider=provider,
        way=way,
        output=cell.output,
        reference=cell.executed,
        exact=cell.saturation,
        passed=join_verdicts(gate.passed for gate in gates),
        session=cell.ran.settings,
    )


def _refuse(subject: Subject, provider: Provider, way: str, error: Outcome) -> tuple[MatrixRow, Check]:
    """The row and the gate of a cell that did not run, or whose exact outputs did not."""
    assert isinstance(error, StepError)
    nothing = refuse_metrics(error.found)
    row = MatrixRow(
        model=subject.ref.name,
        provider=provider.word,
        way=way,
        output="",
        reference=nothing,
        exact=nothing,
        passed=False,
        session={},
    )
    gate = check("sqnr_db", f"{subject.ref.name} on {provider.word}, {way}", nothing.sqnr_db, 0.0, ">=")
    return row, msgspec.structs.replace(gate, note=error.found)


def _take(
    cell: parity.Cell, run: WaysRun, asked: Session, against: Reference, gates: Sequence[Check], budgets: Budgets
) -> Cell:
    """What a trace needs of a failing cell, opened as it ran: one that fell back ran on ONNX Runtime's CPU provider."""
    if "fallback" in cell.ran.settings:
        cpu = parse_provider("cpu")
        asked = msgspec.structs.replace(asked, provider=cpu.ep, runtime=cpu.runtime, provider_options={})
    return Cell(
        model=cell.subject.path,
        name=cell.name,
        kind=cell.subject.kind,
        session=asked,
        target=run.target,
        inputs=against.inputs,
        expected=cell.expected,
        executed=cell.ran.outputs[cell.index],
        exact=cell.ideal.outputs[cell.index],
        index=cell.index,
        failed=tuple(gate for gate in gates if gate.passed is False),
        budgets=budgets,
    )


def _drop_alike(cells: Sequence[Cell]) -> list[Cell]:
    """One of the cells whose executed outputs are the exact ones and fail nevertheless, and all others."""
    kept: list[Cell] = []
    alike: set[tuple[Path, int]] = set()
    for cell in cells:
        as_file = all(gate.name != "exact_gap_db" for gate in cell.failed) and cell.kind == "int8"
        if not as_file or (cell.model, cell.index) not in alike:
            kept.append(cell)
        if as_file:
            alike.add((cell.model, cell.index))
    return kept
