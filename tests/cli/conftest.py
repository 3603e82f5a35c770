"""A card that runs in seconds, for tests of whole commands; commands as processes that hear Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
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


#: `python -m mbdeploy.cli`, where Ctrl-C is heard: the children of a shell's background job are told to ignore it.
LISTENING = (
    "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "runpy.run_module('mbdeploy.cli', run_name='__main__', alter_sys=True)"
)


@pytest.fixture
def start_listening() -> Callable[..., subprocess.Popen[str]]:
    """Start a command that hears Ctrl-C, with variables added to its environment and code that runs before it."""

    def start(*words: str, before: str = "", **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join(path for path in sys.path if path)
        return subprocess.Popen(
            [sys.executable, "-c", before + LISTENING, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **environment},
        )

    return start
