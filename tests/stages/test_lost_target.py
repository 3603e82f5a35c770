"""A device that is lost in the middle of the work: one line, its exit code, no result, and no old one touched."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mbdeploy.cli import program
from mbdeploy.errors import StepError, UnavailableError
from mbdeploy.targets import Session
from mbdeploy.targets.fake import FakeTarget

LOST = {"expected": "an answer of the board", "found": "connection lost", "todo": "try again"}


@pytest.mark.parametrize(
    ("error", "code"), [(UnavailableError(where="board", **LOST), 3), (StepError(where="board", **LOST), 2)]
)
@pytest.mark.parametrize("command", ["verify", "bench"])
def test_a_target_that_is_lost_leaves_no_result_and_the_old_one_as_it_was(
    error: Exception,
    code: int,
    command: str,
    tmp_path: Path,
    write_mean_model: Callable[..., Path],
    mean_golden: Path,
    plug_fake: Callable[[str, FakeTarget], str],
) -> None:
    calls = 0

    def lose(*facts: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:  # it was there when the work began
            raise error
        return [2 * facts[1].mean(axis=(2, 3))] if isinstance(facts[0], Session) else 1_000_000

    word = plug_fake("board", FakeTarget(answer=lose, time_ns=lose))
    models = [str(write_mean_model(name)) for name in ("fp32.onnx", "other.onnx")]
    result = tmp_path / "results" / "result.json"
    result.parent.mkdir()
    result.write_text("old")
    before = sorted(tmp_path.rglob("*"))
    done = CliRunner().invoke(program, [command, *models, "--provider", word, "--output", str(result)])
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr == "error: board: expected an answer of the board, found connection lost; try again\n"
    assert calls == 2
    assert result.read_text() == "old" and sorted(tmp_path.rglob("*")) == before
