"""Which cards a check means, and the line of a card on which a key stands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mbdeploy.card import list_cards
from mbdeploy.errors import UsageError
from mbdeploy.gating.cards import find_cards, find_line

TEXT = """name = "a"  # [budgets] is below
args = { alpha = 0.25 }
quantization = { recipe = "portable" }
weights.seed = 0

[ budgets ]  # frozen
int8_sqnr_db = 15.0
"""


@pytest.mark.parametrize(
    ("table", "key", "line"),
    [
        ("budgets", "int8_sqnr_db", 7),
        ("budgets", "latency_ratio", 6),
        ("weights", "seed", 4),
        ("quantization", "recipe", 3),
        ("", "args", 2),
        ("labels", "names", 1),
    ],
)
def test_a_key_is_found_in_every_way_toml_writes_it_or_else_its_table(table: str, key: str, line: int) -> None:
    assert find_line(TEXT, table, key) == line


def write_card(path: Path, name: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    rest = 'summary = "s"\nnet = "mobilenet_v1"\nweights = { seed = 0 }\npreprocess = { size = 32 }\n'
    path.write_text(f'name = "{name}"\n{rest}')
    return path


def test_without_words_the_cards_are_those_of_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_card(tmp_path / "models" / "b.toml", "b")
    write_card(tmp_path / "models" / "a.toml", "a")
    assert [card.name for card in find_cards([])] == ["a", "b"]
    assert [card.name for card in find_cards(["models", "mobilenet_v2"])] == ["a", "b", "mobilenet_v2"]
    assert find_cards([], all_cards=True) == list_cards()


def test_no_card_and_two_cards_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="expected a card, or cards in models/, found none"):
        find_cards([])
    write_card(tmp_path / "models" / "b.toml", "same")
    write_card(tmp_path / "models" / "a.toml", "same")
    with pytest.raises(UsageError, match="same more than once"):
        find_cards([])
    with pytest.raises(UsageError, match="found both"):
        find_cards(["mobilenet_v2"], all_cards=True)
