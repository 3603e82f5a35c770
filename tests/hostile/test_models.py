"""No hostile model crashes or hangs a command, passes unseen, leaks what links point to, or leaves anything behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hostile_corpus.building import Item
from hostile_corpus.judging import STEP_SECONDS, run_command
from hostile_corpus.models import ITEMS

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TIME = ("--max-time", str(STEP_SECONDS))


def list_arguments(command: str, model: Path, golden: Path) -> list[str]:
    """How a command is called on a model that may be anything."""
    output, images = str(model.parent / "out.onnx"), str(golden.with_name("images.npz"))
    return {
        "verify": ["verify", str(model), "--golden", str(golden), *TIME],
        "simplify": ["simplify", str(model), "--golden", str(golden), "-o", output, *TIME],
        "inspect": ["inspect", str(model), *TIME],
        "audit": ["audit", str(model), *TIME],
        "quantize": ["quantize", str(model), "--calibration", images, "--fast", "-o", output, *TIME],
        "evaluate": ["evaluate", str(model), "--data", images, *TIME],
    }[command]


def lay_out(item: Item, tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    item.make(folder)
    return folder


def test_the_corpus_has_its_size_and_each_name_once() -> None:
    assert len(ITEMS) >= 150
    assert len({item.name for item in ITEMS}) == len(ITEMS)


def choose_tier(number: int, item: Item) -> Any:
    """Two items in three wait for the night."""
    return pytest.param(item, marks=[pytest.mark.sweep] if number % 3 else [], id=item.name[:60])


@pytest.mark.parametrize("item", [choose_tier(number, item) for number, item in enumerate(ITEMS)])
def test_verify_refuses_it_or_fails_it(tmp_path: Path, golden: Path, item: Item) -> None:
    folder = lay_out(item, tmp_path)
    ending = run_command(list_arguments("verify", folder / "model.onnx", golden), folder, harmless=bool(item.harmless))
    assert ending.wrong == (), ending


@pytest.mark.sweep
@pytest.mark.parametrize("command", ["simplify", "inspect", "audit", "quantize", "evaluate"])
@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.name[:60])
def test_every_other_command_ends_well_or_says_why_not(tmp_path: Path, golden: Path, command: str, item: Item) -> None:
    folder = lay_out(item, tmp_path)
    ending = run_command(list_arguments(command, folder / "model.onnx", golden), folder, harmless=True)
    assert ending.wrong == (), ending
    if ending.code not in (0, 1):
        assert not (folder / "out.onnx").exists()
