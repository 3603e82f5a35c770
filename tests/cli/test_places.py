"""Which file a word means, and where results go if nobody says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mbdeploy.card import Budgets, find_budgets, load_card
from mbdeploy.cli.places import (
    find_folder,
    find_models,
    is_card,
    name_folder,
    name_output,
    name_result,
    read_budgets,
    read_quantization,
)
from mbdeploy.errors import CardError, DataError, ModelError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("word", "folder"),
    [
        ("mobilenet_v2", "out/mobilenet_v2"),
        ("mynet:build", "out/build"),
        ("my.package.nets:build", "out/build"),
        ("saved/program.pt2", "out/program"),
    ],
)
def test_a_source_without_an_output_goes_to_a_folder_of_its_name(word: str, folder: str) -> None:
    assert name_folder(word) == Path(folder)


@pytest.mark.parametrize(
    ("model", "stage", "output"),
    [
        ("a/net.onnx", "simplified", "a/net.simplified.onnx"),
        ("a/net.onnx", "int8", "a/net.int8.onnx"),
        ("a/net.simplified.onnx", "int8", "a/net.int8.onnx"),
        ("out/lite0/fp32.onnx", "simplified", "out/lite0/simplified.onnx"),
        ("out/lite0/simplified.onnx", "int8", "out/lite0/int8.onnx"),
        ("v1.0_224.onnx", "int8", "v1.0_224.int8.onnx"),
    ],
)
def test_a_result_lies_beside_its_model(model: str, stage: str, output: str) -> None:
    assert name_output(Path(model), stage) == Path(output)


def test_a_word_is_a_card_unless_it_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"")
    words = ("mobilenet_v2", "mine.toml", "net.onnx", "folder/net", "weights")
    assert [is_card(word) for word in words] == [True, True, False, False, False]


def test_a_card_stands_for_the_files_of_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "mobilenet_v2"
    folder.mkdir(parents=True)
    for name in ("simplified.onnx", "int8.onnx"):
        (folder / name).write_bytes(b"")
    files = ("simplified.onnx", "int8.onnx")
    expected = [Path("out/mobilenet_v2") / name for name in files]
    assert find_models(["mobilenet_v2"], files) == expected
    assert find_models(["other.onnx", "mobilenet_v2"], files) == [Path("other.onnx"), *expected]
    with pytest.raises(ModelError, match="fp32 file of card mobilenet_v2"):
        find_models(["mobilenet_v2"])


def test_a_report_is_on_a_folder_or_on_a_card(tmp_path: Path) -> None:
    (tmp_path / "results_of_may").mkdir()
    assert find_folder("results_of_may") == Path("results_of_may")
    assert find_folder("mobilenet_v2") == Path("out/mobilenet_v2")
    with pytest.raises(CardError):
        find_folder("results_of_june")


def test_only_a_card_brings_budgets_a_recipe_and_a_place_for_results() -> None:
    assert read_budgets(["net.onnx"]) == {}
    assert read_budgets(["net.onnx", "mobilenet_v2"]) == {"budgets": "mobilenet_v2"}
    assert find_budgets("efficientnet_lite0") == load_card("efficientnet_lite0").budgets != Budgets()
    assert read_quantization("net.onnx", {"recipe": "portable"}) == {"recipe": "portable"}
    assert read_quantization("mobilenet_v2", {})["calibration"] == "photos"
    assert name_result(["net.onnx"], "evaluation") is None
    assert name_result(["mobilenet_v2"], "evaluation") == Path("out/mobilenet_v2/results/evaluation.json")


def test_images_beside_a_card_are_found_from_another_folder_and_not_looked_for_where_others_are_given(
    tmp_path: Path, make_onnx_card: Callable[..., Path]
) -> None:
    make_onnx_card(tmp_path / "cards")
    said = read_quantization("cards/tiny.toml", {"recipe": "accurate", "ranges": Path("r.npz")})
    assert said["calibration"] == "cards/photos"
    assert (said["recipe"], said["num_calibration_samples"], said["ranges"]) == ("accurate", 3, Path("r.npz"))
    (tmp_path / "cards" / "photos").rename(tmp_path / "cards" / "other")
    assert read_quantization("cards/tiny.toml", {"calibration": "mine"})["calibration"] == "mine"
    with pytest.raises(DataError, match="nothing of that name"):
        read_quantization("cards/tiny.toml", {})
