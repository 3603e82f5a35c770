"""No data set gone wrong crashes or hangs a command, runs code, or ends as if it were sound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hostile_corpus.building import Item, save, sound_model
from hostile_corpus.datasets import ITEMS
from hostile_corpus.judging import STEP_SECONDS, run_command

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TIME = ("--max-time", str(STEP_SECONDS))


def lay_out(item: Item, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sets"
    folder.mkdir()
    monkeypatch.chdir(folder)
    save(sound_model(), folder)
    item.make(folder)
    return folder


def test_the_corpus_has_its_size_and_each_name_once() -> None:
    assert len(ITEMS) >= 40
    assert len({item.name for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name.encode("ascii", "backslashreplace").decode()[:60])
def test_evaluate_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Item) -> None:
    folder = lay_out(item, tmp_path, monkeypatch)
    words = ["evaluate", str(folder / "model.onnx"), "--data", str(folder / item.command), *TIME]
    if "array" not in item.name:
        words += ["--preprocess", "unit"]
    ending = run_command(words, folder, harmless=bool(item.harmless))
    assert ending.wrong == (), ending


@pytest.mark.sweep
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name.encode("ascii", "backslashreplace").decode()[:60])
def test_quantize_refuses_it_or_has_no_use_for_its_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Item
) -> None:
    folder = lay_out(item, tmp_path, monkeypatch)
    output = folder / "out.onnx"
    words = ["quantize", str(folder / "model.onnx"), "--calibration", str(folder / item.command), "--fast"]
    words += ["--preprocess", "unit", "-o", str(output), "--max-time", "60"]
    unlabelled = "label" in item.name or "too few columns" in item.name  # (the column that lacks is the label)
    ending = run_command(words, folder, harmless=bool(item.harmless) or unlabelled)
    assert ending.wrong == (), ending
    assert output.exists() == (ending.code == 0)
