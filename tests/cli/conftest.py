"""A card that runs in seconds, for tests of whole commands."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
quantization = { calibration = "photos", num_calibration_samples = 3 }
"""


@pytest.fixture
def tiny_card(tmp_path: Path, make_photos: Callable[..., None]) -> Path:
    make_photos(tmp_path / "photos", count=3)
    card = tmp_path / "tiny.toml"
    card.write_text(CARD)
    return card
