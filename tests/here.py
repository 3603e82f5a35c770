"""In this process: what stages have children do, and what the agent does on this machine.

A child imports ONNX Runtime anew, for half a second, and onnxsim for another. For tests of what is computed. What
crashes, hangs or eats memory does so in this process, so tests of isolation, of limits and of memory have children.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mbdeploy.errors import MbdeployError
from mbdeploy.isolate import Outcome, Progress, Verdict, ignore_progress
from mbdeploy.targets import agent
from mbdeploy.watch import Ended

#: The stages whose steps run here: all that do without torch.
STAGES = ("audit", "calibrate_parts", "halve", "inspect", "mix", "quantize", "simplify")


def run_step(
    step: str, request: Mapping[str, Any], *, on_progress: Progress = ignore_progress, **limits: Any
) -> Outcome:
    """Instead of ``isolate.run_step``: request and answer pass through JSON, as there."""
    module, _, function = step.partition(":")
    has_torch = "torch" in sys.modules
    try:
        value = getattr(importlib.import_module(module), function)(json.loads(json.dumps(request)), on_progress)
    except MbdeployError:
        raise
    except Exception as error:
        first_line = (str(error).strip() or "no message").splitlines()[0]
        return Outcome(verdict=Verdict.REJECTED, detail=f"{type(error).__name__}: {first_line}")
    finally:
        if not has_torch and sys.modules.get("torch", ...) is None:
            del sys.modules["torch"]  # onnxsim's step does without torch; the tests that follow do not
    return Outcome(verdict=Verdict.OK, value=json.loads(json.dumps(value)))


class Lines:
    """Where the agent writes its words: each line is taken at once."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.take = take

    def write(self, text: str) -> None:
        self.take(text.encode())

    def flush(self) -> None:
        """Nothing is kept back."""


def watch_agent(command: Sequence[str], *, on_line: Callable[[bytes], None], cwd: str, **given: Any) -> Ended:
    """Instead of ``watch_process`` where a target starts the agent with this Python; the job's folder is ``cwd``."""
    assert sys.executable in command, f"only this machine's agent can run in this process, not {command}"
    before, lines = Path.cwd(), agent._lines
    agent._lines = Lines(on_line)  # type: ignore[assignment]
    os.chdir(cwd)
    gc.freeze()  # the agent collects after each session: not all that pytest and torch hold, too
    try:
        code, stderr = agent.answer(), ""
    except Exception as error:
        code, stderr = 1, f"{type(error).__name__}: {error}"
    finally:
        gc.unfreeze()
        os.chdir(before)
        agent._lines = lines
    return Ended(returncode=code, timed_out=False, stderr=stderr, wall_s=0.0)
