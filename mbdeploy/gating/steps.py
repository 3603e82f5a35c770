"""The steps of a check over one card: each adds what it found to the card's result, and may refuse."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import filelock
import msgspec

from mbdeploy.card import ModelCard
from mbdeploy.errors import MbdeployError, OutputError
from mbdeploy.gating.holm import correct_gates
from mbdeploy.gating.measuring import Found, refuse
from mbdeploy.gating.report import CardResult, Lint
from mbdeploy.gating.versions import Versions, make_gate
from mbdeploy.results import Check
from mbdeploy.stages.bisect import Divergence

#: How long a check waits for another one that is at work on the same card.
_WAIT_S = 3600.0
Step = Callable[[CardResult], CardResult]


def follow(card: ModelCard, folder: Path, steps: Sequence[Step]) -> CardResult:
    """One step after the other; the first that refuses ends the card, with what is known by then."""
    started = time.monotonic()
    result = CardResult(card=card.name, path=card.path, folder=str(folder), seconds=0.0)
    try:
        for step in steps:
            result = step(result)
    except MbdeployError as error:
        result = msgspec.structs.replace(result, refusals=(*result.refusals, refuse(error)))
    return msgspec.structs.replace(result, seconds=time.monotonic() - started)


def add_found(
    result: CardResult, card: ModelCard, found: Found, divergences: tuple[Divergence, ...], notes: Sequence[str] = ()
) -> CardResult:
    """What was measured of the card, and where what failed begins to."""
    unbounded = card.budgets.latency_ratio is None
    return msgspec.structs.replace(
        result,
        gates=found.gates,
        refusals=found.refusals,
        divergences=divergences,
        parity=found.parity,
        latency=found.latency,
        notes=(*(("time is not judged: the card has no latency_ratio",) if unbounded else ()), *notes),
    )


def add_lint(result: CardResult, lint: tuple[Lint, ...]) -> CardResult:
    """Findings of the INT8 file; its errors are a gate."""
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
    return msgspec.structs.replace(result, lint=lint, gates=(*result.gates, make_gate(result.card, "any", gate)))


def add_versions(result: CardResult, found: Versions) -> CardResult:
    """What came of the comparison with another version."""
    return msgspec.structs.replace(
        result,
        gates=(*result.gates, *found.gates),
        changes=found.changes,
        latency=(*result.latency, *found.latency),
    )


def note_new(result: CardResult, baseline: Path) -> CardResult:
    """Say that the card has no other version."""
    note = f"new: {baseline} holds no other version of it, so nothing was compared"
    return msgspec.structs.replace(result, notes=(*result.notes, note))


def correct_all(results: Sequence[CardResult]) -> tuple[CardResult, ...]:
    """Holm's correction over the gates of all cards."""
    gates = iter(correct_gates([gate for result in results for gate in result.gates]))
    return tuple(msgspec.structs.replace(result, gates=tuple(next(gates) for _ in result.gates)) for result in results)


@contextlib.contextmanager
def holding(folder: Path) -> Iterator[None]:
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
