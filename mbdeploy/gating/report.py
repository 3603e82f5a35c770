"""What a check found: one row a gate, one result a card, and the exit code that all of it deserves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from mbdeploy.errors import (
    EXIT_BAD_INPUT,
    EXIT_BUG,
    EXIT_GATE_FAILED,
    EXIT_INCONCLUSIVE,
    EXIT_OK,
    EXIT_UNAVAILABLE,
)
from mbdeploy.results import SCHEMA_VERSION, Check
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.facts import LatencyFacts, ParityFact

#: Exit codes, the worst first: what could not be judged at all hides more than what was judged and failed.
WORST_FIRST = (EXIT_BUG, EXIT_BAD_INPUT, EXIT_UNAVAILABLE, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK)
Level = Literal["error", "warning", "note"]


class Gate(msgspec.Struct, frozen=True, kw_only=True):
    """One gate of one variant on one provider. ``rule`` is a row of ``gating.rules``, ``budget`` the card's key.

    ``p_value`` is how likely a result so bad is if nothing is wrong, ``adjusted`` the same after Holm's correction over
    all such gates of the check; None where a gate is not statistical.
    """

    card: str
    variant: str
    provider: str
    rule: str
    check: Check
    budget: str = ""
    p_value: float | None = None
    adjusted: float | None = None

    @property
    def name(self) -> str:
        """The gate in one word, as tests are called: ``card::variant[provider]::metric``."""
        return f"{self.card}::{self.variant}[{self.provider}]::{self.check.name}"


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """What could not be judged: the error's class, what it says, and its exit code. ``provider`` is "" for all."""

    provider: str
    error: str
    text: str
    exit_code: int


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A node that a finding is about, and what was found there; "" is the file as a whole."""

    node: str
    text: str


class Lint(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule of ``inspect`` or ``audit`` found in the INT8 file."""

    rule: str
    level: Level
    title: str
    summary: str
    change: str
    places: tuple[Place, ...]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure of the INT8 file beside the other version's, as text: what a reviewer reads first."""

    provider: str
    figure: str
    before: str
    now: str
    note: str = ""


class CardResult(msgspec.Struct, frozen=True, kw_only=True):
    """All that was found about one card, whose file is ``path`` and whose output folder is ``folder``."""

    card: str
    path: str
    folder: str
    seconds: float
    gates: tuple[Gate, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    lint: tuple[Lint, ...] = ()
    divergences: tuple[Divergence, ...] = ()
    parity: tuple[ParityFact, ...] = ()
    latency: tuple[LatencyFacts, ...] = ()
    changes: tuple[Change, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """What this card alone comes to."""
        return find_worst([*(refusal.exit_code for refusal in self.refusals), *map(judge_gate, self.gates)])


class CheckReport(msgspec.Struct, frozen=True, kw_only=True):
    """All cards. ``exit_code`` is the worst of theirs."""

    cards: tuple[CardResult, ...]
    providers: tuple[str, ...]
    baseline: str
    exit_code: int
    schema_version: int = SCHEMA_VERSION


def judge_gate(gate: Gate) -> int:
    """The exit code of one gate."""
    return {True: EXIT_OK, False: EXIT_GATE_FAILED, None: EXIT_INCONCLUSIVE}[gate.check.passed]


def find_worst(codes: Iterable[int]) -> int:
    """The first of ``WORST_FIRST`` that is among the codes; 0 for none."""
    return min(codes, key=WORST_FIRST.index, default=EXIT_OK)


def find_divergence(result: CardResult, gate: Gate) -> Divergence | None:
    """Where the outputs behind a failed gate begin to differ, if that was traced."""
    subject = f"{gate.variant} on {gate.provider}"
    own = [one for one in result.divergences if one.subject == subject or one.subject.startswith(f"{subject},")]
    return own[0] if own and gate.check.passed is False else None


def describe_divergence(one: Divergence) -> str:
    """The first node that diverges, in a sentence."""
    place = f"first at {one.operator} {one.node}: {one.measure} {one.before:.4g} before, {one.after:.4g} after it"
    return f"{place if one.node else 'no single node'}{f' ({one.note})' if one.note else ''}"
