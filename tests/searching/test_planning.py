"""The items of a search: what needs a board asks for it by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbdeploy.card import load_card
from mbdeploy.searching.planning import plan_mix, plan_profile
from mbdeploy.sweeping.jobs import Built, Made
from mbdeploy.targets import ssh


@pytest.mark.parametrize(("word", "device"), [("cpu@ssh:board1", "dev_board1"), ("cpu", "")])
def test_what_is_measured_on_a_board_asks_for_it_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, device: str
) -> None:
    monkeypatch.setattr(ssh, "_trusts_anyone", lambda words: False)  # (that asks ssh)
    made = Made(recipe="fp32", path=str(tmp_path / "simplified.onnx"), sha256="0", size_bytes=1, sqnr_db=99.0)
    card, built = load_card("mobilenet_v1_025"), Built(macs=1, parameters=1, files=(made,))
    profile = plan_profile(card, built, word, 1, ["here"])
    mix = plan_mix(card, built, "portable", 0.5, {"provider": word, "threads": 1, "seed": 0}, None, ["here"])
    assert [(work.device, work.exclusive) for work in (profile, mix)] == [(device, True)] * 2
