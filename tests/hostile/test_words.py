"""No card, sidecar, golden file, cache or result that was edited by hand crashes a command or passes as sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile_corpus.building import Item
from hostile_corpus.judging import run_command
from hostile_corpus.words import CARDS, EDITED

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TIME = ("--max-time", "20")
COMMANDS = {
    "show": ["show", "card.toml"],
    "export": ["export", "card.toml", "-o", "out.onnx", *TIME],
    "verify": ["verify", "model.onnx", *TIME],
    "inspect": ["inspect", "model.onnx", *TIME],
    "ranges": ["quantize", "model.onnx", "--ranges", "ranges.json", "--fast", "-o", "out.onnx", *TIME],
    "report": ["report", "."],
}


def run_item(item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "words"
    folder.mkdir()
    item.make(folder)
    monkeypatch.chdir(folder)
    ending = run_command(COMMANDS[item.command], folder, harmless=bool(item.harmless))
    assert ending.wrong == (), ending
    assert not list(tmp_path.rglob("escape*"))
    if ending.code:
        assert not (folder / "out.onnx").exists()


def choose_tier(item: Item) -> Any:
    """Export starts torch, which takes seconds: eight cards in nine wait for the night."""
    exported = [card for card in CARDS if card.command == "export"]
    marks = [pytest.mark.sweep] if item in exported and exported.index(item) % 9 else []
    return pytest.param(item, marks=marks, id=item.name)


@pytest.mark.parametrize("item", [choose_tier(card) for card in CARDS])
def test_a_card_that_lies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Item) -> None:
    run_item(item, tmp_path, monkeypatch)


@pytest.mark.parametrize("item", EDITED, ids=lambda item: item.name)
def test_a_file_edited_by_hand_is_refused_or_vouches_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Item
) -> None:
    run_item(item, tmp_path, monkeypatch)
