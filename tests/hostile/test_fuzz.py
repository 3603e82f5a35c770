"""The fuzz targets take their seeds and random changes of them; with atheris, coverage leads the way for a while."""

from __future__ import annotations

import importlib.util
import random
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = ("card", "sidecar", "preflight", "archive", "metadata")
_SECONDS = 2


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_takes_its_seeds_and_what_is_left_of_them(tmp_path: Path, name: str) -> None:
    import fuzz

    targets = fuzz.load_targets(tmp_path)
    assert set(targets) == set(TARGETS)
    target, seeds = targets[name]
    rng = random.Random(name)
    for seed in seeds:
        target(seed)
        for _ in range(60):
            changed = bytearray(seed[: rng.randint(1, len(seed))])
            for _ in range(rng.randint(0, 4)):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            target(bytes(changed))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install atheris (Linux)")
@pytest.mark.parametrize("name", TARGETS)
def test_coverage_guided_fuzzing_finds_nothing(tmp_path: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), name, str(_SECONDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=20 * _SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert "DONE" in done.stderr
