"""What inspect and audit find, as one list that is the same in every run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mbdeploy.auditing.report import Finding, Spot
from mbdeploy.gating import lint


def test_places_in_the_order_of_their_time_are_listed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(slow: str, quick: str) -> SimpleNamespace:
        spots = (Spot(node=slow, text="in float", time_share=0.2), Spot(node=quick, text="in float", time_share=0.1))
        found = Finding(
            rule="MB309", severity="warning", title="t", summary="s", change="c", spots=spots, time_share=0.3
        )
        return SimpleNamespace(examined=SimpleNamespace(findings=(found,)))

    monkeypatch.setattr(lint, "inspect", lambda model, **_: SimpleNamespace(findings=()))
    lists = []
    for slow, quick in (("a", "b"), ("b", "a")):
        monkeypatch.setattr(lint, "audit", lambda model, slow=slow, quick=quick, **_: find(slow, quick))
        lists.append(lint.lint_model(Path("m.onnx")))
    assert lists[0] == lists[1]
    assert [place.node for place in lists[0][0].places] == ["a", "b"]
