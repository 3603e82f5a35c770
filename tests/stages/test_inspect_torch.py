"""The sweep of a card's network over width and resolution, counted on shapes alone."""

from __future__ import annotations

import pytest

from mbdeploy.card import load_card
from mbdeploy.errors import UsageError
from mbdeploy.stages.inspect_torch import SIZES, sweep_card

pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("card", "macs"),  # in millions at 224 pixels by width: what the nets' authors print, see tests/nets/test_counts.py
    [
        pytest.param("shufflenet_v2", {0.5: 40, 1.0: 146, 1.5: 299, 2.0: 591}, marks=pytest.mark.sweep),
        ("ghostnet", {0.5: 42, 1.0: 141, 1.3: 227}),
    ],
)
def test_a_sweep_counts_the_widths_that_a_net_is_published_in(card: str, macs: dict[float, int]) -> None:
    found = sweep_card({"card": load_card(card).path}, lambda *_: None)
    cells = {(cell["alpha"], cell["size"]): round(cell["macs"] / 1e6) for cell in found["cells"]}
    assert set(cells) == {(alpha, size) for alpha in macs for size in SIZES}
    assert {alpha: cells[alpha, 224] for alpha in macs} == macs


def test_a_sweep_of_a_net_of_one_width_is_refused() -> None:
    with pytest.raises(UsageError, match=r"whose net takes alpha.*found net squeezenet, which has one width"):
        sweep_card({"card": load_card("squeezenet_1_1").path}, lambda *_: None)
