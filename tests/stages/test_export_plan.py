"""What an export is asked to do: settled from the card and the options, and known again by its digests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mbdeploy import artifact
from mbdeploy.card import load_card
from mbdeploy.errors import UsageError
from mbdeploy.stages.export import plan
from mbdeploy.stages.export_plan import settle_job

FACTORY = "no_such_package:make"  # planning never imports it
CARD = """
name = "tiny"
summary = "for tests"
net = "mobilenet_v1"
[weights]
seed = 3
[preprocess]
size = 32
resize = 40
mean = [127.5, 127.5, 127.5]
std = [127.5, 127.5, 127.5]
[quantization]
calibration = "own"
"""


@pytest.fixture
def options(photo_folder: Path) -> dict[str, Any]:
    """What a source without a card needs."""
    return {"trust": True, "preprocess": "unit", "input_shape": (3, 16, 16), "golden_data": str(photo_folder)}


@pytest.fixture
def card_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(CARD, encoding="utf-8")
    return path


@pytest.mark.parametrize("changes", [{"weights": __file__}, {"exporter": "torchscript"}])
def test_options_that_a_traced_program_cannot_follow_are_refused(
    tmp_path: Path, options: dict[str, Any], changes: dict[str, Any]
) -> None:
    (tmp_path / "net.pt2").write_bytes(b"x")
    with pytest.raises(UsageError, match="traced already"):
        settle_job(tmp_path / "net.pt2", **{**options, **changes})


def test_every_option_that_matters_changes_the_key_and_a_moved_folder_does_not(
    tmp_path: Path, options: dict[str, Any], make_photos: Callable[..., None]
) -> None:
    make_photos(tmp_path / "moved", count=6)
    make_photos(tmp_path / "others", count=6, seed=1)
    base = plan(FACTORY, **options)
    assert plan(FACTORY, **{**options, "golden_data": str(tmp_path / "moved")}).key == base.key
    for changes in (
        {"golden_data": str(tmp_path / "others")},
        {"preprocess": "tf"},
        {"input_shape": (3, 32, 32)},
        {"opset": 20},
        {"exporter": "torchscript"},
        {"num_golden_samples": 5},
    ):
        assert plan(FACTORY, **{**options, **changes}).key != base.key, changes
    assert plan("no_such_package:other", **options).key != base.key
    assert plan(FACTORY, **{**options, "opset": 18}).key == base.key


def test_a_factory_is_known_by_the_file_of_its_code(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "code" / "pkg_for_tests"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('planning must not import this')")
    (package / "nets.py").write_text("a = 1")
    monkeypatch.chdir(package.parent)
    digests = [plan("pkg_for_tests.nets:make", **options).parents["factory"]]
    (package / "nets.py").write_text("a = 2")
    digests.append(plan("pkg_for_tests.nets:make", **options).parents["factory"])
    assert digests[1] == artifact.digest_file(package / "nets.py") != digests[0]
    init = plan("pkg_for_tests:make", **options).parents["factory"]
    assert init == artifact.digest_file(package / "__init__.py")
    assert plan("pkg_for_tests.none:make", **options).parents["factory"] == "absent"
    assert plan("no_such_package.nets:make", **options).parents["factory"] == "absent"


def test_another_input_size_keeps_the_cards_margin(card_file: Path) -> None:
    preprocess = settle_job(card_file, input_shape=(3, 64, 64)).preprocess
    assert (preprocess.size, preprocess.resize, preprocess.mean[0]) == (64, 80, 127.5)
    assert settle_job(card_file, input_shape=(3, 32, 32)).preprocess == load_card(card_file).preprocess
    assert settle_job(card_file, preprocess="unit").preprocess.size == 32
    with pytest.raises(UsageError, match="3 channels, as the card's preprocessing gives"):
        settle_job(card_file, input_shape=(1, 32, 32))


def test_a_preprocessing_file_gives_the_size_and_may_not_contradict_the_shape(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    path = tmp_path / "p.toml"
    path.write_text("size = 24\nchannels = 1\nmean = [0.0]\nstd = [255.0]\n")
    options["preprocess"] = str(path)
    assert settle_job(FACTORY, **{**options, "input_shape": None}).shape == (1, 24, 24)
    with pytest.raises(UsageError, match=r"expected 1,24,24 as in .*, found input shape 3,16,16"):
        settle_job(FACTORY, **options)
