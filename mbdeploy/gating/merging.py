"""From workers' answers about a card to its result, which is the one that a single process gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.calls import Call
from mbdeploy.card import ModelCard
from mbdeploy.errors import MbdeployError, UnavailableError, unpack_error
from mbdeploy.gating.jobs import Judged, Made, Timed, refuse_others
from mbdeploy.gating.keeping import keep_runs
from mbdeploy.gating.measured import Measured
from mbdeploy.gating.measuring import gather, keep_confirmed, narrow, refuse
from mbdeploy.gating.planning import Shared
from mbdeploy.gating.report import CardResult, Change, Gate, Refusal
from mbdeploy.gating.steps import Step, add_found, add_lint, add_versions, follow, holding, note_new
from mbdeploy.gating.tracing import keep_traced
from mbdeploy.gating.versions import Versions, add_times
from mbdeploy.pipeline import describe_measuring, keep_measured, run
from mbdeploy.results import BenchRun, ParityReport
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.facts import derive_latency, derive_parity
from mbdeploy.stages.reporting.reading import BESIDE


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """All that workers said of one card, by provider, the seconds that it took them, and notes for the reader."""

    made: Made
    judged: Mapping[str, Judged]
    timed: Mapping[str, Timed]
    seconds: float = 0.0
    notes: tuple[str, ...] = ()


def merge_answers(
    shared: Shared,
    card: ModelCard,
    answers: Answers,
    *,
    folder: Path,
    providers: Sequence[str],
    baseline: Path | None,
    refusals: Sequence[Refusal],
) -> CardResult:
    """The card's result, in ``folder``, of the ``providers`` asked for; ``refusals`` are those that are not here.

    The files that ``run`` leaves of its measurements are left as well: they are fresh for it.
    """
    steps = [_measured(shared, card, answers, providers, refusals), _linted(answers.made)]
    if baseline is not None:
        steps.append(_compared(shared, card, answers, providers, baseline))
    return msgspec.structs.replace(follow(card, folder, steps), seconds=answers.seconds)


def _measured(
    shared: Shared, card: ModelCard, answers: Answers, providers: Sequence[str], refusals: Sequence[Refusal]
) -> Step:
    def step(result: CardResult) -> CardResult:
        refused = list(refusals)
        real, emulated = (_sort_out(words, answers, refused) for words in (shared.real, shared.emulated))
        reports = {word: _read_report(answers, word) for word in (*real, *emulated)}
        latency = {word: derive_latency(run) for word in real if (run := _find_run(answers.timed[word])) is not None}
        parts = [
            Measured(
                checks=report.checks,
                parity=derive_parity(report),
                latency=(latency[word],) if word in latency else (),
            )
            for word, report in reports.items()
        ]
        if len(real) == len(shared.real):  # as one process measures them all at once
            parts = [_join(parts[: len(real)]), *parts[len(real) :]]
        found = gather(card, parts, providers, refused, shared.tolerance)
        traced = [one for word in reports for one in answers.judged[word].traced]
        traced = [one for one in traced if one.provider.partition(" ")[0] in providers]
        divergences: tuple[Divergence, ...] = ()
        if reports:
            with holding(shared.locate(card)):
                divergences = keep_traced(card, shared.locate(card), traced) if traced else ()
                _keep(shared, card, answers, [reports[word] for word in real], real)
                confirmed = [run for word in real for run in answers.timed[word].confirmed]
                keep_confirmed(shared.locate(card), confirmed, shared.options, shared.tolerance)
        return add_found(result, card, found, divergences, answers.notes)

    return step


def _linted(made: Made) -> Step:
    def step(result: CardResult) -> CardResult:
        if made.lint_refused is not None:
            raise unpack_error(made.lint_refused)
        return add_lint(result, made.lint) if made.files else result

    return step


def _compared(shared: Shared, card: ModelCard, answers: Answers, providers: Sequence[str], baseline: Path) -> Step:
    def step(result: CardResult) -> CardResult:
        other = shared.find_other(card)
        if other is None:
            return note_new(result, baseline)
        refused = {refusal.provider for refusal in result.refusals}
        words = [word for word in shared.real if word in providers and word not in refused]
        if not words or not result.gates:
            return result
        gates: list[Gate] = []
        changes: list[Change] = []
        for word in words:
            judged, timed = answers.judged[word], answers.timed[word]
            if packed := judged.versions_refused or timed.versions_refused:
                raise unpack_error(packed)
            assert judged.versions is not None
            gates += judged.versions.gates
            changes += judged.versions.changes
        runs = [run for word in words for run in answers.timed[word].versions]
        folder = shared.locate(card)
        with holding(folder):
            timed_files = (other, folder / "int8.onnx")
            keep_runs(folder, BESIDE, timed_files, runs, tolerance=shared.tolerance, **shared.options)
        facts = [derive_latency(run) for run in runs]
        found = Versions(gates=tuple(gates), changes=tuple(changes))
        return add_versions(result, add_times(found, card.name, facts, shared.tolerance))

    return step


def _find_run(timed: Timed) -> BenchRun | None:
    """The run that decides."""
    return timed.confirmed[0] if timed.confirmed else timed.run


def _sort_out(words: Sequence[str], answers: Answers, refused: list[Refusal]) -> list[str]:
    """The words on which the card was judged; those that were not there are added to ``refused``."""
    judged = []
    for word in words:
        error = _find_error(answers, word)
        if error is None:
            judged.append(word)
        elif isinstance(error, UnavailableError):
            refused.append(refuse(error, word))
        else:
            raise error
    return judged


def _find_error(answers: Answers, word: str) -> MbdeployError | None:
    parts: list[Any] = [answers.made, answers.judged.get(word), answers.timed.get(word)]
    packed = next((part.refused for part in parts if part is not None and part.refused is not None), None)
    return None if packed is None else unpack_error(packed)


def _read_report(answers: Answers, word: str) -> ParityReport:
    report = answers.judged[word].report
    assert report is not None  # else it would have been refused
    return report


def _join(parts: Sequence[Measured]) -> Measured:
    return Measured(
        checks=tuple(check for part in parts for check in part.checks),
        parity=tuple(fact for part in parts for fact in part.parity),
        latency=tuple(fact for part in parts for fact in part.latency),
    )


def _keep(
    shared: Shared, card: ModelCard, answers: Answers, reports: Sequence[ParityReport], words: Sequence[str]
) -> None:
    """Leave the results, the report and the manifest of ``run`` over the files that were measured."""
    folder, options = shared.locate(card), narrow(shared.options, words)
    runs = [timed for word in words if (timed := answers.timed[word].run) is not None]
    if not words or len(runs) != len(words):
        return
    refuse_others({"folder": str(folder), "files": answers.made.files})
    parity = ParityReport(
        reference=reports[0].reference,
        rows=tuple(row for report in reports for row in report.rows),
        checks=tuple(check for report in reports for check in report.checks),
        hosts={word: host for report in reports for word, host in report.hosts.items()},
        layers=tuple(curve for report in reports for curve in report.layers),
        call=_ask_of(words, reports[0].call),
    )
    runs = [msgspec.structs.replace(timed, call=_ask_of(words, timed.call)) for timed in runs]
    keep_measured(folder, parity, runs, describe_measuring(card, folder, providers=words, **options))
    run(card.path, output=folder, providers=words, trust=shared.trust, **options)


def _ask_of(words: Sequence[str], call: Call | None) -> Call | None:
    """The call for one provider as the one for all of them."""
    return call and msgspec.structs.replace(call, options={**call.options, "providers": list(words)})
