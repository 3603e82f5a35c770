"""From recorded tensors to a curve: SQNR along the network, and where it drops most."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from mbdeploy.results import LayerCurve, LayerRow

#: So many drops are marked, if they are at least so large.
_MOST_MARKED, _LEAST_DB = 3, 1.0
_MOST_NAMED = 4


class LayerFact(msgspec.Struct, frozen=True, kw_only=True):
    """One 8-bit tensor. ``sqnr_db`` is None unless it is a finite number: ``state`` is then "equal", if the tensor is
    the float one bit by bit, or "degenerate", if no number may be believed (``reason`` says why).

    ``drop_db`` is how far it lies below the worst of what the node reads; None where one of the two has no number.
    """

    node: str
    operator: str
    tensor: str
    sqnr_db: float | None
    drop_db: float | None
    max_lsb: float | None
    state: Literal["", "equal", "degenerate"] = ""
    reason: str = ""
    marked: bool = False


class CurveFact(msgspec.Struct, frozen=True, kw_only=True):
    """An INT8 file on a provider along the network, in the order of the graph; ``notes`` say what is not in it."""

    model: str
    origin: str
    provider: str
    images: int
    layers: tuple[LayerFact, ...]
    notes: tuple[str, ...] = ()


def derive_layers(curves: Sequence[LayerCurve]) -> tuple[CurveFact, ...]:
    """One fact a curve; the largest drops are marked, three at most."""
    return tuple(
        CurveFact(
            model=curve.model.name,
            origin=curve.origin.name,
            provider=curve.provider,
            images=max((row.metrics.images for row in curve.layers), default=0),
            layers=_mark(_derive(curve.layers)),
            notes=tuple(_list_notes(curve)),
        )
        for curve in curves
    )


def _list_notes(curve: LayerCurve) -> Iterator[str]:
    if curve.note:
        yield curve.note
    if curve.way == "one by one":
        yield "Each tensor is from a session that ends there: handed out together they would have run otherwise."
    if curve.unpaired:
        more = f" and {len(curve.unpaired) - _MOST_NAMED} more" if len(curve.unpaired) > _MOST_NAMED else ""
        yield f"Not in {curve.origin.name}, and so not here: {', '.join(curve.unpaired[:_MOST_NAMED])}{more}."


def _derive(rows: Sequence[LayerRow]) -> list[LayerFact]:
    facts = []
    worst: dict[str, float] = {}  # by tensor: a file may quantize one twice
    for row in rows:
        metrics = row.metrics
        state: Literal["", "equal", "degenerate"] = ""
        if metrics.degenerate or not math.isfinite(metrics.sqnr_db):
            state = "equal" if metrics.sqnr_db == math.inf and not metrics.degenerate else "degenerate"
        sqnr_db = None if state else metrics.sqnr_db
        before = min((worst[name] for name in row.sources if name in worst), default=math.inf)
        facts.append(
            LayerFact(
                node=row.node,
                operator=row.operator,
                tensor=row.tensor,
                sqnr_db=sqnr_db,
                drop_db=None if sqnr_db is None or before == math.inf else before - sqnr_db,
                max_lsb=metrics.max_lsb if state != "degenerate" else None,
                state=state,
                reason=metrics.degenerate or ("a reference of zeros" if state == "degenerate" else ""),
            )
        )
        if state != "degenerate":
            worst[row.tensor] = min(metrics.sqnr_db, worst.get(row.tensor, math.inf))
    return facts


def _mark(facts: Sequence[LayerFact]) -> tuple[LayerFact, ...]:
    drops = [(-fact.drop_db, place) for place, fact in enumerate(facts) if fact.drop_db and fact.drop_db >= _LEAST_DB]
    chosen = {place for _, place in sorted(drops)[:_MOST_MARKED]}
    return tuple(
        msgspec.structs.replace(fact, marked=True) if place in chosen else fact for place, fact in enumerate(facts)
    )
