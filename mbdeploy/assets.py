"""Where models/ and calibration/ are ($MBDEPLOY_PATH, this checkout or the installed wheel), and where the cache is."""

from __future__ import annotations

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
_LONGEST_NAME = 200  # beyond about this, file systems answer with an error and not with "no such file"


def asset_roots() -> list[Path]:
    """Folders that hold ``models/`` and ``calibration/``, in the order in which they are searched.

    Rules: 1. every folder of ``$MBDEPLOY_PATH`` (separated as in ``$PATH``). 2. The checkout this
    package lies in, else ``_share`` inside the installed wheel.
    """
    listed = [Path(part) for part in os.environ.get("MBDEPLOY_PATH", "").split(os.pathsep) if part]
    checkout = _PACKAGE.parent
    own = checkout if (checkout / "pyproject.toml").is_file() else _PACKAGE / "_share"
    return [*listed, own]


def find_asset(folder: str, name: str) -> Path | None:
    """The first file ``folder/name`` on the asset roots, or None; ``name`` may not leave the folder."""
    if Path(name).is_absolute() or ".." in Path(name).parts or len(name) > _LONGEST_NAME:
        return None
    for root in asset_roots():
        path = root / folder / name
        if path.is_file():
            return path
    return None


def cache_root() -> Path:
    """The folder for what can be made again: ``mbdeploy`` in ``$XDG_CACHE_HOME``, else in ``~/.cache``."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))  # (a relative one is to be ignored, says its specification)
    return (given if given.is_absolute() else Path.home() / ".cache") / "mbdeploy"


def list_assets(folder: str, suffix: str) -> list[Path]:
    """Every file of ``folder`` with this suffix on the asset roots, sorted; the first root wins a name."""
    found: dict[str, Path] = {}
    for root in reversed(asset_roots()):
        for path in sorted((root / folder).glob(f"*{suffix}")):
            found[path.name] = path
    return [found[name] for name in sorted(found)]
