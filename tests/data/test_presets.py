"""Words for preprocessing, and the lists of class names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mbdeploy.card import Labels, Preprocess
from mbdeploy.data import load_labels, resolve_preprocess
from mbdeploy.errors import CardError, UsageError


@pytest.mark.parametrize(
    ("word", "black", "white"),
    [
        ("imagenet", [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], [0.515 / 0.229, 0.544 / 0.224, 0.594 / 0.225]),
        ("tf", [-1] * 3, [1] * 3),
        ("lite", [-127 / 128] * 3, [1] * 3),
        ("unit", [0] * 3, [1] * 3),
        ("raw", [0] * 3, [255] * 3),
    ],
)
def test_a_word_maps_black_and_white_to_its_known_range(word: str, black: list[float], white: list[float]) -> None:
    preprocess = resolve_preprocess(word, size=224)
    assert (preprocess.size, preprocess.resize, preprocess.interpolation) == (224, 256, "bilinear")
    mean, std = np.array(preprocess.mean), np.array(preprocess.std)
    np.testing.assert_allclose((0 - mean) / std, black, rtol=1e-9)
    np.testing.assert_allclose((255 - mean) / std, white, rtol=1e-9)


def test_the_short_side_keeps_the_ratio_256_to_224_at_other_sizes() -> None:
    assert [resolve_preprocess("tf", size=size).resize for size in (32, 128, 160, 192, 240)] == [37, 146, 183, 219, 274]


def test_a_width_is_the_models_where_a_file_names_no_size(tmp_path: Path) -> None:
    assert resolve_preprocess("unit", size=48, width=192).shape == (3, 48, 192)
    assert resolve_preprocess("unit", size=48, width=48) == resolve_preprocess("unit", size=48)
    path = tmp_path / "how.toml"
    path.write_text("resize = 64")
    assert resolve_preprocess(str(path), size=48, width=192).shape == (3, 48, 192)
    path.write_text("size = 32")
    assert resolve_preprocess(str(path), size=48, width=192).shape == (3, 32, 32)


def test_a_word_of_one_number_serves_one_channel_and_imagenet_does_not() -> None:
    assert resolve_preprocess("tf", size=28, channels=1).mean == (127.5,)
    with pytest.raises(UsageError, match="one number per channel"):
        resolve_preprocess("imagenet", size=28, channels=1)
    with pytest.raises(UsageError, match="channels"):
        resolve_preprocess("tf", size=28, channels=4)


def test_a_file_says_what_it_says_and_takes_the_rest_from_the_model(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('resize = 70\nmean = [1, 2, 3]\nstd = [4, 5, 6]\ncolor = "BGR"\n')
    assert resolve_preprocess(str(path), size=64) == Preprocess(
        size=64, resize=70, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), color="BGR"
    )
    path.write_text("size = 32\n")
    assert resolve_preprocess(str(path), size=64).size == 32


@pytest.mark.parametrize(
    ("text", "found"),
    [("mena = [1, 2, 3]\n", "mena"), ("std = [0, 1, 1]\n", "above 0"), ("size = ", "invalid|Invalid")],
)
def test_a_file_with_a_wrong_key_or_value_is_refused_with_its_name(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=found) as caught:
        resolve_preprocess(str(path), size=64)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("word", [None, "caffe", "nowhere.toml"])
def test_no_word_an_unknown_word_and_a_missing_file_are_refused(word: str | None) -> None:
    with pytest.raises(UsageError):
        resolve_preprocess(word, size=224)


def test_the_imagenet_names_are_1000_in_the_order_of_their_synsets() -> None:
    names = load_labels(Labels(names="imagenet-1000"))
    assert names is not None
    assert len(names) == 1000
    known = {0: "tench", 1: "goldfish", 281: "tabby", 285: "Egyptian cat", 967: "espresso", 999: "toilet tissue"}
    assert {index: names[index] for index in known} == known
    assert all(name == name.strip() and name and "_" not in name for name in names)


def test_a_background_class_comes_before_the_names() -> None:
    names = load_labels(Labels(names="imagenet-1000", background=True))
    assert names is not None
    assert (len(names), names[0], names[1]) == (1001, "background", "tench")


def test_a_card_without_names_has_none_and_an_unknown_list_is_refused() -> None:
    assert load_labels(Labels()) is None
    with pytest.raises(CardError, match="no such list"):
        load_labels(Labels(names="imagenet-22k"))
    with pytest.raises(CardError):
        load_labels(Labels(names="../../README"))
