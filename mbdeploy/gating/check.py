"""``check``: cards through the pipeline, judged against their budgets and against another version, card by card."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import filelock
import msgspec

from mbdeploy.card import ModelCard
from mbdeploy.errors import MbdeployError, OutputError
from mbdeploy.gating.holm import correct_gates
from mbdeploy.gating.lint import lint_model
from mbdeploy.gating.measuring import measure_card, refuse
from mbdeploy.gating.report import CardResult, CheckReport, find_worst
from mbdeploy.gating.tracing import trace_failures
from mbdeploy.gating.versions import compare_versions, find_version, make_gate, refuse_baseline
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.pipeline import StageRun
from mbdeploy.results import Check
from mbdeploy.targets import open_target, parse_provider

#: How long a check waits for another one that is at work on the same card.
_WAIT_S = 3600.0
_Step = Callable[[CardResult], CardResult]


def check(
    cards: Sequence[ModelCard],
    *,
    output: Path = Path("out"),
    providers: Sequence[str] = ("cpu",),
    baseline: Path | None = None,
    tolerance: float = 0.05,
    ignore: Collection[str] = (),
    threads: int = 1,
    min_duration: float = 2.0,
    seed: int = 0,
    allow_fallback: bool = False,
    trust: bool = False,
    on_stage: Callable[[StageRun], None] = lambda stage: None,
    on_progress: Progress = ignore_progress,
) -> CheckReport:
    """Take every card through the pipeline into ``output/NAME`` and judge what comes out.

    Rules: 1. what is fresh is not done again. 2. Gates are the card's budgets; time is one of them only where the card
    has ``latency_ratio``, and if it does not hold it is measured again in full. 3. Errors of the audit are a gate;
    other findings of ``inspect`` and ``audit`` are only told. ``ignore`` names rules to leave out. 4. With
    ``baseline``, the output folder of another version, its INT8 file and ours run now on the same images, and take
    turns in one bench. 5. A gate on paired measurements fails only if it still does after Holm's correction over all of
    them. 6. A failed parity gate is traced to its first node. 7. A card or provider that cannot be judged is a refusal
    with its exit code, and the others go on; ``exit_code`` is the worst of all, in the order 5, 2, 3, 1, 4, 0.

    Raises:
        ModelError: a baseline that holds no version of any card. UsageError: no such provider.
    """
    if baseline is not None and not any(find_version(baseline, card.name) for card in cards):
        raise refuse_baseline(baseline)
    for word in providers:  # a word that means nothing is refused before any work
        parse_provider(word)
    options: dict[str, Any] = {
        "threads": threads,
        "min_duration": min_duration,
        "seed": seed,
        "allow_fallback": allow_fallback,
        "on_progress": on_progress,
    }
    results = []
    for card in cards:
        steps: list[_Step] = [
            _measuring(card, providers, tolerance, {**options, "trust": trust, "on_stage": on_stage}, confirm=True),
            _linting(card, ignore, on_progress),
        ]
        if baseline is not None:
            steps.append(_comparing(card, baseline, providers, {**options, "tolerance": tolerance}))
        results.append(_follow(card, output / card.name, steps))
    corrected = _correct(results)
    return CheckReport(
        cards=corrected,
        providers=tuple(providers),
        baseline=str(baseline or ""),
        exit_code=find_worst([result.exit_code for result in corrected]),
    )


def check_card(
    card: ModelCard, folder: Path, providers: Sequence[str], *, tolerance: float = 0.05, **options: Any
) -> CardResult:
    """One card against its budgets, as a test suite asks for it: no findings, no other version.

    ``options`` are those of ``pipeline.run``. Whoever is at work on the same folder is waited for; then all is fresh.
    """
    return _correct([_follow(card, folder, [_measuring(card, providers, tolerance, options)])])[0]


def _follow(card: ModelCard, folder: Path, steps: Sequence[_Step]) -> CardResult:
    """One step after the other; the first that refuses ends the card, with what is known by then."""
    started = time.monotonic()
    result = CardResult(card=card.name, path=card.path, folder=str(folder), seconds=0.0)
    try:
        for step in steps:
            result = step(result)
    except MbdeployError as error:
        result = msgspec.structs.replace(result, refusals=(*result.refusals, refuse(error)))
    return msgspec.structs.replace(result, seconds=time.monotonic() - started)


def _measuring(
    card: ModelCard, providers: Sequence[str], tolerance: float, options: dict[str, Any], *, confirm: bool = False
) -> _Step:
    def step(result: CardResult) -> CardResult:
        folder = Path(result.folder)
        with _holding(folder):
            found = measure_card(card, folder, providers, options, tolerance=tolerance, confirm=confirm)
            divergences = trace_failures(card, folder, found.gates, options)
        unbounded = card.budgets.latency_ratio is None
        return msgspec.structs.replace(
            result,
            gates=found.gates,
            refusals=found.refusals,
            divergences=divergences,
            parity=found.parity,
            latency=found.latency,
            notes=("time is not judged: the card has no latency_ratio",) if unbounded else (),
        )

    return step


def _linting(card: ModelCard, ignore: Collection[str], on_progress: Progress) -> _Step:
    def step(result: CardResult) -> CardResult:
        if not (Path(result.folder) / "int8.onnx").is_file():
            return result  # no provider was here to make it with, which the refusals say
        lint = lint_model(Path(result.folder) / "int8.onnx", ignore=ignore, on_progress=on_progress)
        errors = [item for item in lint if item.level == "error"]
        gate = Check(
            name="audit_errors",
            subject="int8",
            value=float(len(errors)),
            bound=0.0,
            comparison="<=",
            passed=not errors,
            note=", ".join(item.rule for item in errors),
        )
        gates = (*result.gates, make_gate(card.name, "any", gate))
        return msgspec.structs.replace(result, lint=lint, gates=gates)

    return step


def _comparing(card: ModelCard, baseline: Path, providers: Sequence[str], options: dict[str, Any]) -> _Step:
    def step(result: CardResult) -> CardResult:
        other = find_version(baseline, card.name)
        if other is None:
            note = f"new: {baseline} holds no other version of it, so nothing was compared"
            return msgspec.structs.replace(result, notes=(*result.notes, note))
        refused = {refusal.provider for refusal in result.refusals}
        words = [word for word in providers if word not in refused and not open_target(parse_provider(word)).emulated]
        if not words or not result.gates:
            return result
        with _holding(Path(result.folder)):
            found = compare_versions(card.name, Path(result.folder), other, providers=words, **options)
        return msgspec.structs.replace(
            result,
            gates=(*result.gates, *found.gates),
            changes=found.changes,
            latency=(*result.latency, *found.latency),
        )

    return step


def _correct(results: Sequence[CardResult]) -> tuple[CardResult, ...]:
    """Holm's correction over the gates of all cards."""
    gates = iter(correct_gates([gate for result in results for gate in result.gates]))
    return tuple(msgspec.structs.replace(result, gates=tuple(next(gates) for _ in result.gates)) for result in results)


@contextlib.contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Hold a card's folder against other checks, and wait for theirs; the pipeline's own lock does not wait."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with filelock.FileLock(folder / ".check.lock", timeout=_WAIT_S):
            yield
    except filelock.Timeout as error:
        raise OutputError(
            where=folder,
            expected=f"its turn within {_WAIT_S:.0f} s",
            found="another check at work on this card",
            todo="wait for it to end, or choose another folder with --output",
        ) from error
