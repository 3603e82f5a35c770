"""What is said of a curve: drops from what a layer reads, and never a number that there is none for."""

from __future__ import annotations

import math

import pytest

from mbdeploy.results import LayerCurve, LayerRow, Metrics, ModelRef
from mbdeploy.stages.layer_facts import CurveFact, derive_layers
from mbdeploy.stages.layer_tables import tabulate_drops, tabulate_layers

Row = tuple[str, float, tuple[str, ...]]


def make_curve(*rows: Row, unpaired: tuple[str, ...] = (), degenerate: str = "constant reference") -> LayerCurve:
    """Layers as (tensor, SQNR, sources); one whose SQNR is NaN is degenerate."""
    model = ModelRef(name="int8", path="int8.onnx", sha256="0" * 64, size_bytes=1)
    return LayerCurve(
        model=model,
        origin=ModelRef(name="simplified", path="simplified.onnx", sha256="1" * 64, size_bytes=1),
        provider="cpu",
        way="at once",
        layers=tuple(
            LayerRow(
                node=f"node {tensor}",
                operator="Conv",
                tensor=tensor,
                sources=sources,
                metrics=Metrics(
                    images=4,
                    elements=8,
                    max_abs=0.5,
                    sqnr_db=sqnr_db,
                    cosine=1.0,
                    max_lsb=3.0,
                    degenerate=degenerate if math.isnan(sqnr_db) else None,
                ),
            )
            for tensor, sqnr_db, sources in rows
        ),
        unpaired=unpaired,
    )


def derive(*rows: Row) -> CurveFact:
    (fact,) = derive_layers([make_curve(*rows)])
    return fact


def test_a_drop_is_from_the_worst_of_what_the_layer_reads_wherever_that_stands() -> None:
    fact = derive(("a", 40.0, ()), ("b", 30.0, ("a",)), ("c", 20.0, ("a",)), ("d", 24.0, ("b", "c")))
    assert [layer.drop_db for layer in fact.layers] == [None, 10.0, 20.0, -4.0]
    assert fact.images == 4


def test_a_layer_without_a_finite_sqnr_has_a_word_and_no_number_and_no_drop_is_from_it() -> None:
    fact = derive(
        ("a", math.inf, ()), ("b", 30.0, ("a",)), ("c", math.nan, ("b",)), ("d", 20.0, ("c",)), ("e", 19.0, ("b", "c"))
    )
    assert [(layer.state, layer.sqnr_db, layer.drop_db) for layer in fact.layers] == [
        ("equal", None, None),
        ("", 30.0, None),
        ("degenerate", None, None),
        ("", 20.0, None),
        ("", 19.0, 11.0),
    ]
    assert (fact.layers[2].reason, fact.layers[2].max_lsb) == ("constant reference", None)
    (table,) = tabulate_layers([fact])
    assert [row[3] for row in table.rows] == ["equal", "30.00", "degenerate", "20.00", "19.00"]
    assert "3 node c: constant reference" in table.notes
    assert not any("inf" in cell or "nan" in cell for row in table.rows for cell in row)


def test_noise_on_nothing_but_zeros_is_degenerate() -> None:
    fact = derive(("a", 40.0, ()), ("b", -math.inf, ("a",)))
    assert [(layer.state, layer.sqnr_db, layer.reason) for layer in fact.layers] == [
        ("", 40.0, ""),
        ("degenerate", None, "a reference of zeros"),
    ]


def test_the_three_largest_drops_are_marked_if_they_are_a_decibel_or_more() -> None:
    levels = [50.0, 40.0, 38.0, 30.0, 29.5, 20.0]
    names = "abcdef"
    rows = [
        (name, level, (names[k - 1],) if k else ()) for k, (name, level) in enumerate(zip(names, levels, strict=True))
    ]
    fact = derive(*rows)
    assert [layer.tensor for layer in fact.layers if layer.marked] == ["b", "d", "f"]
    assert [row[4] for row in tabulate_layers([fact])[0].rows] == ["n/a", "10.00*", "2.00", "8.00*", "0.50", "9.50*"]
    assert not any(layer.marked for layer in derive(("a", 30.0, ()), ("b", 29.1, ("a",))).layers)
    (short,) = tabulate_drops([derive(*rows, ("g", 21.0, ("f",)))])
    assert [row[0] for row in short.rows] == ["2", "4", "6", "7"]


@pytest.mark.parametrize(("count", "said"), [(2, "q0, q1."), (6, "q0, q1, q2, q3 and 2 more.")])
def test_tensors_that_have_no_counterpart_are_named(count: int, said: str) -> None:
    (fact,) = derive_layers([make_curve(("a", 40.0, ()), unpaired=tuple(f"q{k}" for k in range(count)))])
    assert fact.notes == (f"Not in simplified, and so not here: {said}",)
