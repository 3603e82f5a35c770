"""The members of a family: a card with another width and another resolution is a card of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.card import ModelCard, Weights, card_digest, load_card
from mbdeploy.data import is_manifest
from mbdeploy.errors import UsageError


def list_variants(cards: Sequence[str], alphas: Sequence[float], sizes: Sequence[int]) -> list[ModelCard]:
    """Every card with every width multiplier and input size (pixels); without any, the card's own.

    Rules: 1. another width than the card's own has no trained weights: they are seeded, and have no accuracy.
    2. ``resize`` keeps its proportion to the size. 3. Equal variants, of cards of one family, are one.

    Raises:
        UsageError: a width or a size for a card whose network is a file, or no card at all.
    """
    found: dict[str, ModelCard] = {}
    for word in cards:
        card = load_card(word)
        if card.is_file and (alphas or sizes):
            raise UsageError(
                where=word, expected="a card with a net", found="one whose network is a file", todo="leave it out"
            )
        for alpha, size in product(alphas or (None,), sizes or (None,)):
            variant = _derive(card, alpha, size)
            found.setdefault(identify_variant(variant), variant)
    if not found:
        raise UsageError(expected="at least one card", found="none", todo="name one (`mbdeploy list`)")
    return list(found.values())


def identify_variant(card: ModelCard) -> str:
    """What makes a variant another one than the next: all of the card but words about it."""
    same = {**card_digest(card), "name": "", "summary": "", "source": "", "licence": ""}
    return msgspec.json.encode(same, order="deterministic").decode()


def read_alpha(card: ModelCard) -> float | None:
    """The width multiplier that a card says, if it says one."""
    return card.args.get("alpha")


def write_card(card: ModelCard) -> str:
    """The card as TOML; what lies beside the original one is named by its whole path."""
    plain = card_digest(card)
    return "".join(f"{key} = {_encode(value)}\n" for key, value in plain.items() if value is not None)


def _derive(card: ModelCard, alpha: float | None, size: int | None) -> ModelCard:
    own = card.args.get("alpha", 1.0)
    how, weights, args = card.preprocess, card.weights, card.args
    if size is not None:
        resize = None if how.resize is None else round(how.resize * size / how.size)
        width = None if how.width is None else round(how.width * size / how.size)
        how = msgspec.structs.replace(how, size=size, width=width, resize=resize)
    if alpha is not None:
        args = {**args, "alpha": alpha}
        weights = weights if alpha == own else Weights(seed=0)
    beside = Path(card.path).parent
    if weights.file is not None and weights.package is None:
        weights = msgspec.structs.replace(weights, file=str((beside / weights.file).resolve()))
    quantization = card.quantization
    if not is_manifest(quantization.calibration) and (beside / quantization.calibration).exists():
        place = str((beside / quantization.calibration).resolve())
        quantization = msgspec.structs.replace(quantization, calibration=place)
    parts = [card.name, *([f"a{alpha:g}"] if alpha is not None else []), *([f"r{size}"] if size is not None else [])]
    return msgspec.structs.replace(
        card, name="-".join(parts), args=args, preprocess=how, weights=weights, quantization=quantization
    )


def _encode(value: Any) -> str:
    """A value as TOML on one line; there is no null in it, so such keys are left out."""
    if isinstance(value, dict):
        pairs = (f"{json.dumps(key)} = {_encode(one)}" for key, one in value.items() if one is not None)
        return f"{{ {', '.join(pairs)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_encode, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else repr(value)
