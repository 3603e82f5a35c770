"""Model cards as tables, for ``list`` and ``show``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from mbdeploy.card import ModelCard
from mbdeploy.results import SCHEMA_VERSION
from mbdeploy.stages.tables import Table


def tabulate_cards(cards: Sequence[ModelCard]) -> list[Table]:
    """One row a card."""
    rows = tuple((card.name, card.task, name_weights(card), card.summary) for card in cards)
    note = "Seeded weights are not trained: nothing is claimed about their accuracy."
    seeded = any(card.trained is False for card in cards)
    table = Table(
        title="Model cards",
        columns=("card", "task", "weights", "what it is"),
        rows=rows,
        notes=(note,) if seeded else (),
        left=(0, 1, 2, 3),
    )
    return [table]


def describe_cards(cards: Iterable[ModelCard]) -> dict[str, Any]:
    """All cards as plain data."""
    return {"schema_version": SCHEMA_VERSION, "cards": [msgspec.to_builtins(card) for card in cards]}


def tabulate_card(card: ModelCard) -> list[Table]:
    """Every key of the card, in the order of the card's type, with its parts one below the other."""
    plain = msgspec.to_builtins(card)
    plain.pop("name")
    table = Table(title=card.name, columns=("key", "value"), rows=tuple(_list_rows("", plain)), left=(0, 1))
    return [table]


def describe_card(card: ModelCard) -> dict[str, Any]:
    """The card as plain data."""
    return {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(card)}


def name_weights(card: ModelCard) -> str:
    """Where its weights come from, in a word or two."""
    return {True: "trained", False: f"seeded ({card.weights.seed})", None: "its factory's"}[card.trained]


def _list_rows(prefix: str, plain: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key, value in plain.items():
        if isinstance(value, Mapping):
            yield from _list_rows(f"{prefix}{key}.", value)
        elif value not in (None, ""):
            shown = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            yield f"{prefix}{key}", shown
