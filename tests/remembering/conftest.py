"""Saved results by hand, as the report's tests make them, and a history of them; skipped where DuckDB is not here."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "stages" / "reporting"))

import msgspec
from folders import make_run

from mbdeploy import artifact
from mbdeploy.isolate import Outcome, Verdict, ignore_progress
from mbdeploy.remembering.recording import remember


@pytest.fixture
def needs_duckdb() -> None:
    if any(importlib.util.find_spec(name) is None for name in ("duckdb", "pyarrow")):
        pytest.skip("needs DuckDB and pyarrow: pip install 'mbdeploy[history]'")


@pytest.fixture
def add_run(tmp_path: Path, needs_duckdb: None) -> Callable[..., Path]:
    """Remember one run of "simplified" and "int8", the latter ``ratio`` times as long, measured on that day."""

    def add(when: str, ratio: float = 0.5, model: str = "lite0", **changed: Any) -> Path:
        run = msgspec.structs.replace(make_run(70, ratio), when_utc=f"2026-01-{when}T12:00:00Z", **changed)
        path = tmp_path / "bench.json"
        artifact.write_json(path, {"schema_version": 1, "runs": [run]})
        remember([path], folder=tmp_path / "history", model=model)
        return tmp_path / "history"

    return add


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A history is read here, without the second that a child takes to start."""
    from mbdeploy.remembering import history, query_job

    def run_step(function: str, request: dict[str, Any], **limits: Any) -> Outcome:
        return Outcome(verdict=Verdict.OK, value=query_job.query(request, ignore_progress))

    monkeypatch.setattr(history, "run_step", run_step)
