"""The verify stage: every variant on every provider, as executed and exact, against golden outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.calls import describe_call
from mbdeploy.card import Budgets, find_budgets
from mbdeploy.data import open_dataset
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.model_file import digest_model
from mbdeploy.results import Check, Host, Mode, ParityReport, ParityRow
from mbdeploy.stages.layers import find_twins, list_origins, record_layers
from mbdeploy.stages.parity import compare_cell, list_checks, list_rows
from mbdeploy.stages.placement import check_rules, judge_placement, parse_rules
from mbdeploy.stages.reference import Reference, find_golden, load_reference
from mbdeploy.stages.subject import (
    Kind,
    Subject,
    entitle,
    is_exact_borrowed,
    list_tools,
    name_provider,
    plan_session,
    read_subjects,
)
from mbdeploy.targets import Answer, Job, Provider, Ran, Target, open_target, parse_provider
from mbdeploy.targets.host import identify_machine


def verify(
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
    layers: bool = False,
    one_by_one: bool = True,
    on_progress: Progress = ignore_progress,
) -> ParityReport:
    """Run ``models`` on ``providers`` and compare their outputs, in order, with the reference's.

    Rules: 1. the reference is ``golden``, or the FP32 ONNX file ``reference`` run on this CPU over
    ``data``; with neither it is golden.npz beside the first model. At most ``num_samples`` images are used.
    2. ``kind`` says which gates of ``budgets`` hold; without it each file's own metadata does, and a file
    with quantizing nodes is int8. 3. Executed INT8 outputs are also compared with the exact ones of the
    same file, so that saturation is a number of its own. 4. On an emulated target, and on a runtime other than
    ONNX Runtime, only the executed mode runs; the exact outputs, which are float arithmetic, come from this
    machine's CPU. 5. With ``allow_fallback`` a provider that is not here runs on the CPU instead, and its rows say
    so. 6. ``require_placement`` are rules over where nodes ran as executed: see :mod:`mbdeploy.stages.placement`.
    7. With ``layers`` each INT8 file's tensors are compared with its float file's along the network, too, with a
    session for each of them where there is no other way, if ``one_by_one``: see :mod:`mbdeploy.stages.layers`.
    8. ``budgets`` are bounds, or the card (its name or file) whose bounds they are.

    Raises:
        UnavailableError: a provider that is not here, or that takes no node of a model.
        StepError: a model that the runtime refuses, or that crashes or hangs it.
        UsageError, ModelError, DataError: inputs that contradict each other or cannot be used.
        CardError: no such card.
    """
    call = describe_call("verify", locals())
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
    twins = find_twins(subjects, reference) if layers else []
    for provider, _ in opened:  # what a provider cannot be given is refused before anything runs
        plan_session(subjects[0], provider, **settings)
    rows: list[ParityRow] = []
    checks: list[Check] = []
    hosts: dict[str, Host] = {}
    exact_here: Sequence[Ran] = ()
    for provider, target in opened:
        borrowed = is_exact_borrowed(provider, target)
        if borrowed and not exact_here:
            here = parse_provider("cpu")
            exact_here = _run(subjects, ("exact",), here, open_target(here), against, {}, on_progress).sessions
        modes: tuple[Mode, ...] = ("executed",) if borrowed else ("executed", "exact")
        answer = _run(subjects, modes, provider, target, against, settings, on_progress)
        hosts[provider.word] = answer.host
        exact = exact_here if borrowed else answer.sessions[len(subjects) :]
        for subject, ran, ideal in zip(subjects, answer.sessions, exact, strict=False):
            label = name_provider(provider, ran)
            for index in range(len(against.outputs)):
                cell = compare_cell(subject, label, index, ran, ideal, against, borrowed=borrowed)
                rows += list_rows(cell)
                checks += list_checks(cell, bounds)
            checks += judge_placement(rules, ran.placement, subject.ref.name, label, subject.kind)
    curves = [
        curve
        for pair in twins
        for curve in record_layers(pair, opened, against.inputs, settings, on_progress, one_by_one=one_by_one)
    ]
    return ParityReport(
        reference=against.name, rows=tuple(rows), checks=tuple(checks), hosts=hosts, layers=tuple(curves), call=call
    )


def plan(
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
    layers: bool = False,
    one_by_one: bool = True,
) -> Provenance:
    """What ``verify`` would do with these inputs: the basis of the freshness key."""
    parents = {f"model {index}": digest_model(path) for index, path in enumerate(models)}
    beside = find_golden(models[0], golden) if reference is None else None
    if beside is not None:
        parents["golden"] = artifact.digest_file(beside)
    if reference is not None:
        parents["reference"] = digest_model(reference)
    for index, path in enumerate(list_origins(models, reference) if layers else ()):
        parents[f"origin {index}"] = digest_model(path)
    if data is not None:
        parents["data"] = open_dataset(data, split="check", limit=num_samples).digest()
    return Provenance(
        stage="verify",
        params={
            "host": identify_machine(),
            "preprocess": preprocess,
            "num_samples": num_samples,
            "providers": list(providers),
            "budgets": msgspec.to_builtins(find_budgets(budgets)),
            "kind": kind,
            "threads": threads,
            "provider_options": dict(provider_options or {}),
            "session_config": dict(session_config or {}),
            "allow_fallback": allow_fallback,
            "require_placement": list(require_placement),
            "layers": layers,
            "one_by_one": one_by_one,
        },
        parents=parents,
        tools=artifact.read_tools(*list_tools(providers)),
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
