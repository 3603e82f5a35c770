"""The fuzz targets take their seeds and random changes of them; with atheris, coverage leads the way for a while."""

from __future__ import annotations

import importlib.util
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TARGETS = ("card", "sidecar", "preflight", "archive", "metadata")
_SECONDS = 1


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
def test_coverage_guided_fuzzing_finds_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(HERE / "fuzz.py"), "--seconds", str(_SECONDS)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    assert re.findall(r"^fuzzing (\w+)$", done.stderr, re.MULTILINE) == list(TARGETS)
    runs = [int(count) for count in re.findall(r"^stat::number_of_executed_units: (\d+)$", done.stderr, re.MULTILINE)]
    assert len(runs) == len(TARGETS) and min(runs) >= 10, runs


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install atheris (Linux)")
def test_fuzzing_ends_in_failure_where_it_finds_something(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import fuzz\n"
        "def crash(data):\n"
        "    raise RuntimeError('found')\n"
        "fuzz.load_targets = lambda folder: {'broken': (crash, [b'a']), 'sound': (lambda data: None, [b'a'])}\n"
        "fuzz.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(HERE), "--seconds", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1 and "RuntimeError: found" in done.stdout + done.stderr
    *_, artifact, last = done.stderr.splitlines()
    assert re.fullmatch(r"crash-\w+: [\w+/=]*", artifact) and last == "found something: broken"
