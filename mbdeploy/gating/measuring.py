"""A card on every provider that was asked for: the pipeline where time exists, parity alone on emulated CPUs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard, name_card
from mbdeploy.errors import MbdeployError, UnavailableError
from mbdeploy.gating.keeping import keep_runs
from mbdeploy.gating.measured import Measured, collect_gates, collect_time_gates, read_measured
from mbdeploy.gating.report import Gate, Refusal
from mbdeploy.isolate import ignore_progress
from mbdeploy.pipeline import TIMED, run
from mbdeploy.results import BenchRun, ParityReport
from mbdeploy.stages import verify
from mbdeploy.stages.bench import bench
from mbdeploy.stages.facts import LatencyFacts, ParityFact, derive_latency, derive_parity
from mbdeploy.stages.placement import choose_rules
from mbdeploy.stages.reporting.reading import CONFIRMED
from mbdeploy.targets import open_target, parse_provider

_INT8 = "int8.onnx"
#: The provider that files are made with where only emulated ones were asked for.
MAKER = "cpu"
#: Options of ``pipeline.run`` that ``bench`` has not, or that are judged elsewhere.
_NOT_OF_BENCH = ("trust", "on_stage", "require_placement")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a card: its gates and figures, and the providers that could not be judged."""

    gates: tuple[Gate, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    parity: tuple[ParityFact, ...] = ()
    latency: tuple[LatencyFacts, ...] = ()


def measure_card(
    card: ModelCard,
    folder: Path,
    providers: Sequence[str],
    options: dict[str, Any],
    *,
    tolerance: float = 0.05,
    confirm: bool = False,
) -> Found:
    """Everything that the card's budgets bound, on every provider; ``options`` are those of ``pipeline.run``.

    Rules: 1. a provider that is not here is a refusal, and the others go on. 2. On an emulated CPU parity counts and
    time does not exist; only the INT8 file runs there, as emulators are slow at float arithmetic. 3. With ``confirm``,
    a gate on time that the pipeline's quick bench does not pass is measured again by ``bench`` in full, over several
    processes, and that decides; its raw times are kept as ``CONFIRMED`` says.
    """
    real, emulated, refusals = sort_providers(providers)
    if not real and not emulated:
        return Found(refusals=tuple(refusals))
    parts = _try_each(real or [MAKER], lambda words: _run(card, folder, words, options), refusals)
    for word in emulated:
        parts += _try_each([word], lambda words: _verify(card, folder, words[0], options), refusals)
    if confirm:
        runs = [run for part in parts for run in confirm_times(card, folder, part, options, tolerance)]
        keep_confirmed(folder, runs, options, tolerance)
        parts = [replace_times(part, runs) for part in parts]
    return gather(card, parts, providers, refusals, tolerance)


def gather(
    card: ModelCard, parts: Sequence[Measured], providers: Sequence[str], refusals: Sequence[Refusal], tolerance: float
) -> Found:
    """What the parts say of the providers that were asked for."""
    gates = [gate for part in parts for gate in collect_gates(card, part, tolerance)]
    return Found(
        gates=tuple(gate for gate in gates if gate.provider.partition(" ")[0] in providers),
        refusals=tuple(refusals),
        parity=tuple(fact for part in parts for fact in part.parity),
        latency=tuple(fact for part in parts for fact in part.latency),
    )


def refuse(error: MbdeployError, provider: str = "") -> Refusal:
    """An error as the part of a result that it is."""
    return Refusal(provider=provider, error=type(error).__name__, text=str(error), exit_code=error.exit_code)


def sort_providers(providers: Sequence[str]) -> tuple[list[str], list[str], list[Refusal]]:
    """Those of real machines, those that are emulated, and those that are not here."""
    real: list[str] = []
    emulated: list[str] = []
    refusals: list[Refusal] = []
    for word in dict.fromkeys(providers):
        try:
            (emulated if open_target(parse_provider(word)).emulated else real).append(word)
        except UnavailableError as error:
            refusals.append(refuse(error, word))
    return real, emulated, refusals


def _try_each(
    words: Sequence[str], measure: Callable[[Sequence[str]], Measured], refusals: list[Refusal]
) -> list[Measured]:
    """All words at once, or, where one of them is not here after all, each alone."""
    try:
        return [measure(words)]
    except UnavailableError as error:
        if len(words) == 1:
            refusals.append(refuse(error, words[0]))
            return []
    return [part for word in words for part in _try_each([word], measure, refusals)]


def narrow(options: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """The options for some of the providers: a rule over the share of another one is not for them."""
    return {**options, "require_placement": list(choose_rules(options.get("require_placement", ()), words))}


def _run(card: ModelCard, folder: Path, words: Sequence[str], options: dict[str, Any]) -> Measured:
    run(card.path, output=folder, providers=words, **narrow(options, words))
    return read_measured(folder)


def _verify(card: ModelCard, folder: Path, word: str, options: dict[str, Any]) -> Measured:
    report = verify_emulated(card, folder, word, options)
    return Measured(checks=report.checks, parity=derive_parity(report), latency=())


def verify_emulated(card: ModelCard, folder: Path, word: str, options: dict[str, Any]) -> ParityReport:
    """Parity of the INT8 file on one provider, kept in a file of its own."""
    models = [folder / _INT8]
    asked: dict[str, Any] = {
        "golden": folder / "golden.npz",
        "providers": [word],
        "budgets": name_card(card),
        "threads": options.get("threads", 1),
        "require_placement": narrow(options, [word])["require_placement"],
    }
    path = folder / "results" / f"parity-{re.sub(r'[^A-Za-z0-9.-]', '_', word)}.json"
    on_progress = options.get("on_progress", ignore_progress)
    return artifact.keep_result(
        path,
        verify.plan(models, **asked),
        ParityReport,
        lambda: verify.verify(models, on_progress=on_progress, **asked),
    )


def confirm_times(
    card: ModelCard, folder: Path, part: Measured, options: dict[str, Any], tolerance: float
) -> list[BenchRun]:
    """The times that the gate of a part does not pass, measured again in full; none where it passes."""
    gates = collect_time_gates(card, part, tolerance)
    words = {gate.provider.partition(" ")[0] for gate in gates if gate.check.passed is not True}
    if not words:
        return []
    given = {"inputs": folder / "golden.npz", **pick_timing(options), "tolerance": tolerance}
    return bench([folder / name for name in TIMED], providers=sorted(words), **given)


def keep_confirmed(folder: Path, runs: Sequence[BenchRun], options: Mapping[str, Any], tolerance: float) -> None:
    """Keep what was measured again in full beside the quick runs."""
    keep_runs(folder, CONFIRMED, [folder / name for name in TIMED], runs, **pick_timing(options), tolerance=tolerance)


def replace_times(part: Measured, runs: Sequence[BenchRun]) -> Measured:
    """The part, with the times that were measured again."""
    again = {fact.models[0].provider: fact for fact in map(derive_latency, runs)}
    latency = tuple(again.get(fact.models[0].provider, fact) for fact in part.latency)
    return msgspec.structs.replace(part, latency=latency)


def pick_timing(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options of ``pipeline.run`` that ``bench`` has, too."""
    return {key: value for key, value in options.items() if key not in _NOT_OF_BENCH}
