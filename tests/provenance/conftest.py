"""A folder as a run leaves it, of small files that no native code has to read."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mbdeploy.provenance.manifest import vouch_for_folder

sys.path.insert(0, str(Path(__file__).parent))  # for ``made_files``
from made_files import FILES, make_file


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """The folder without a manifest."""
    for name in FILES:
        make_file(tmp_path / "out", name, name.encode())
    return tmp_path / "out"


@pytest.fixture
def folder(made: Path) -> Path:
    """The folder with its manifest."""
    vouch_for_folder(made)
    return made
