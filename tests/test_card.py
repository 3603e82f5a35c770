"""Model cards: what may be in one, and that every mistake is named with its file and its key."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from mbdeploy import assets
from mbdeploy.card import Preprocess, card_digest, list_cards, load_card
from mbdeploy.errors import CardError

MINIMAL = """
name = "tiny"
summary = "a card for tests"
net = "mobilenet_v1"

[weights]
seed = 0

[preprocess]
size = 32
"""


def write_card(folder: Path, text: str = MINIMAL, name: str = "tiny.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_a_card_says_what_it_says_and_defaults_fill_the_rest(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    card = load_card(path)
    assert (card.name, card.net, card.weights.seed, card.preprocess.size) == ("tiny", "mobilenet_v1", 0, 32)
    assert (card.task, card.quantization.recipe, card.budgets.export_max_abs) == ("classify", "accurate", 1e-4)
    assert card.path == str(path)
    assert card.trained is False


def test_whether_a_factory_s_weights_are_trained_is_not_known(tmp_path: Path) -> None:
    path = write_card(tmp_path)
    path.write_text(path.read_text().replace('net = "mobilenet_v1"', 'factory = "a:b"'))
    assert load_card(path).trained is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("seed = 0", "seed = 0\nsede = 1", ["sede", "weights"]),
        ("[preprocess]", "[preproces]", ["preproces"]),
        ("size = 32", "size = 32\nmean = [0.0]", ["mean", "preprocess"]),
        ("size = 32", "size = 0", ["size", "1..8192"]),
        ("size = 32", "size = 32\nresize = 16", ["resize", "16"]),
        ("size = 32", "size = 32\nstd = [1.0, 0.0, 1.0]", ["std"]),
        ("size = 32", "size = 32\nchannels = 4", ["channels"]),
        ("size = 32", 'size = 32\ninterpolation = "cubic"', ["interpolation"]),
        ("size = 32", 'size = "32"', ["size"]),
        ("seed = 0", "", ["seed", "file"]),
        ("seed = 0", 'seed = 0\nfile = "w.safetensors"', ["seed", "file"]),
        ("seed = 0", 'file = "w.safetensors"', ["sha256"]),
        ('net = "mobilenet_v1"', "", ["net", "factory"]),
        ('net = "mobilenet_v1"', 'net = "mobilenet_v1"\nfactory = "a:b"', ["net", "factory"]),
        ('net = "mobilenet_v1"', 'net = "mobilenet_v1"\ntask = "detect"', ["task"]),
        ('summary = "a card for tests"', "", ["summary"]),
        ('name = "tiny"', 'name = "tiny', ["line 2"]),
    ],
)
def test_a_mistake_in_a_card_is_named_with_its_file_and_key(
    tmp_path: Path, old: str, new: str, words: list[str]
) -> None:
    assert old in MINIMAL
    path = write_card(tmp_path, MINIMAL.replace(old, new))
    with pytest.raises(CardError) as caught:
        load_card(path)
    assert caught.value.where == str(path)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00" * 9, b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(content)
    with pytest.raises(CardError, match=r"x\.toml"):
        load_card(path)


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    write_card(tmp_path / "models")
    monkeypatch.setenv("MBDEPLOY_PATH", str(tmp_path))
    with pytest.raises(CardError, match=r"expected a card's name .*tiny.*, found no such card"):
        load_card("teeny")


def test_a_missing_card_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CardError, match="expected a model card file, found no such file"):
        load_card(tmp_path / "none.toml")


def test_a_folder_under_a_cards_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").mkdir()
    with pytest.raises(CardError):
        load_card(tmp_path / "x.toml")


@pytest.mark.parametrize("name", ["..", "../tiny", "../../etc/passwd", "/etc/passwd", "models/../../tiny"])
def test_a_name_cannot_leave_the_folder_of_the_cards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (tmp_path / "models").mkdir()
    write_card(tmp_path)
    monkeypatch.setenv("MBDEPLOY_PATH", str(tmp_path))
    assert assets.find_asset("models", f"{name}.toml") is None
    with pytest.raises(CardError):
        load_card(name)


def test_the_first_folder_on_the_path_wins_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder / "models").mkdir(parents=True)
        write_card(tmp_path / folder / "models", MINIMAL.replace("a card for tests", f"from {folder}"))
    monkeypatch.setenv("MBDEPLOY_PATH", os.pathsep.join([str(tmp_path / "a"), str(tmp_path / "b")]))
    assert load_card("tiny").summary == "from a"
    assert [card.summary for card in list_cards() if card.name == "tiny"] == ["from a"]


def test_the_digest_of_a_card_does_not_know_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    one, other = load_card(write_card(tmp_path)), load_card(write_card(tmp_path / "other"))
    assert one.path != other.path
    assert card_digest(one) == card_digest(other)
    assert "path" not in card_digest(one)


def test_every_card_that_ships_can_be_read_and_is_called_like_its_file() -> None:
    cards = list_cards()
    assert {"efficientnet_lite0", "mobilenet_v1", "mobilenet_v2"} <= {card.name for card in cards}
    assert [card.name for card in cards] == [Path(card.path).stem for card in cards]


def test_a_card_with_trained_weights_quotes_no_measurement_that_another_recipe_makes_stale() -> None:
    for card in list_cards():
        comments = [line for line in Path(card.path).read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        assert not (card.trained and any("dB" in line for line in comments)), card.name


def test_preprocessing_survives_json() -> None:
    preprocess = Preprocess(size=224, resize=256, interpolation="bicubic", mean=(1.5, 2.0, 3.25), std=(1.0, 2.0, 3.0))
    assert msgspec.json.decode(msgspec.json.encode(preprocess), type=Preprocess) == preprocess
