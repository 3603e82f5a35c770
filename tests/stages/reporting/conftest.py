"""Lets the tests of this folder import ``folders`` beside them, and writes output folders and starts a browser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from browser import Browser, find_driver
from folders import write_folder


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Write an output folder: ``make_folder(fp32=EXPORT, int8=QUANTIZE, parity=…, bench=…, folder="lite0")``."""

    def make(folder: str = "lite0", **parts: Any) -> Path:
        return write_folder(tmp_path / folder, **parts)

    return make


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium that has no network."""
    driver = find_driver()
    if driver is None:
        pytest.skip("needs chromium and chromedriver")
    with Browser(driver) as found:
        yield found
