"""The members of a family: which cards a width and a size make of a card."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from mbdeploy.card import load_card
from mbdeploy.errors import UsageError
from mbdeploy.sweeping.variants import list_variants, read_alpha, write_card

TRAINED = """
name = "mine"
summary = "a \\"quoted\\" card"
net = "mobilenet_v1"
args = { alpha = 0.5 }
weights = { file = "mine.safetensors", sha256 = "00" }
preprocess = { size = 128, resize = 146 }
labels = { background = true }
quantization = { calibration = "./photos", num_calibration_samples = 3 }
"""


@pytest.fixture
def card(tmp_path: Path) -> str:
    (tmp_path / "photos").mkdir()
    (tmp_path / "mine.toml").write_text(TRAINED)
    return str(tmp_path / "mine.toml")


def test_every_width_meets_every_size(card: str) -> None:
    found = list_variants([card], (0.25, 0.5), (64, 128))
    assert [(one.name, read_alpha(one), one.preprocess.size, one.preprocess.resize) for one in found] == [
        ("mine-a0.25-r64", 0.25, 64, 73),
        ("mine-a0.25-r128", 0.25, 128, 146),
        ("mine-a0.5-r64", 0.5, 64, 73),
        ("mine-a0.5-r128", 0.5, 128, 146),
    ]


def test_only_the_card_s_own_width_keeps_trained_weights(card: str) -> None:
    found = list_variants([card], (0.25, 0.5), ())
    assert [one.trained for one in found] == [False, True]
    assert list_variants([card], (), (64,))[0].trained


def test_a_card_of_the_family_that_is_named_twice_is_one_variant() -> None:
    found = list_variants(["mobilenet_v1_025", "mobilenet_v1", "mobilenet_v1"], (0.25,), (96,))
    assert [one.name for one in found] == ["mobilenet_v1_025-a0.25-r96"]


def test_a_variant_written_is_the_card_that_is_read_with_whole_paths(card: str, tmp_path: Path) -> None:
    variant = list_variants([card], (), (64,))[0]
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "card.toml"
    path.write_text(write_card(variant))
    assert msgspec.structs.replace(load_card(path), path=variant.path) == variant
    assert variant.weights.file == str(tmp_path / "mine.safetensors")
    assert variant.quantization.calibration == str(tmp_path / "photos")


def test_no_card_and_a_network_that_is_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one card"):
        list_variants([], (), ())
    text = TRAINED.replace('net = "mobilenet_v1"\nargs = { alpha = 0.5 }\n', "").replace("safetensors", "onnx")
    (tmp_path / "file.toml").write_text(text)
    with pytest.raises(UsageError, match="a card with a net"):
        list_variants([str(tmp_path / "file.toml")], (0.5,), ())
