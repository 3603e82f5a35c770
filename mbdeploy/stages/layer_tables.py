"""The curve along the network as tables: every layer, or the drops alone."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.stages.layer_facts import CurveFact, LayerFact
from mbdeploy.stages.tables import Table
from mbdeploy.stages.wording import NOT_AVAILABLE, name_number

_MOST_REASONS = 4
_COLUMNS = ("#", "layer", "operator", "SQNR dB", "drop dB", "LSB")


def tabulate_layers(curves: Sequence[CurveFact]) -> list[Table]:
    """Every layer of every curve, in the order of the graph."""
    return [_tabulate(curve, list(enumerate(curve.layers, start=1)), "Along the network") for curve in curves]


def tabulate_drops(curves: Sequence[CurveFact]) -> list[Table]:
    """Of every curve the layers that are marked, and the last one."""
    return [
        _tabulate(
            curve,
            [(n, layer) for n, layer in enumerate(curve.layers, start=1) if layer.marked or n == len(curve.layers)],
            "Where the network loses most",
        )
        for curve in curves
    ]


def name_sqnr(layer: LayerFact) -> str:
    """The layer's SQNR in text, or why it has none."""
    return layer.state or f"{layer.sqnr_db:.2f}"


def _tabulate(curve: CurveFact, shown: Sequence[tuple[int, LayerFact]], title: str) -> Table:
    rows = tuple(
        (
            str(number),
            layer.node,
            layer.operator,
            name_sqnr(layer),
            NOT_AVAILABLE if layer.drop_db is None else f"{layer.drop_db:.2f}" + "*" * layer.marked,
            name_number(layer.max_lsb),
        )
        for number, layer in shown
    )
    degenerate = [f"{number} {layer.node}: {layer.reason}" for number, layer in shown if layer.state == "degenerate"]
    notes = [*curve.notes, *degenerate[:_MOST_REASONS]]
    if len(degenerate) > _MOST_REASONS:
        notes.append(f"and {len(degenerate) - _MOST_REASONS} more that are degenerate")
    if rows:
        notes.append(
            f"8-bit tensors as executed against those of {curve.origin}, over {curve.images} images. drop: from the "
            "worst of what the layer reads; *: the largest."
        )
    return Table(
        title=f"{title}: {curve.model} on {curve.provider}",
        columns=_COLUMNS,
        rows=rows,
        notes=tuple(notes),
        left=(1, 2),
    )
