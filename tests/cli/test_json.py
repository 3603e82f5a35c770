"""With ``--format json`` standard output is one JSON value, whatever else a command or native code has to say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mbdeploy.cli import COMMANDS
from mbdeploy.errors import EXIT_GATE_FAILED, EXIT_INCONCLUSIVE, EXIT_OK

FILES = ("out/fp32.onnx", "out/simplified.onnx", "out/int8.onnx")
QUANTIZING = ("--calibration", "./photos", "--num-calibration-samples", "3")
#: One call of every command, in an order in which each finds what it reads.
CALLS = {
    "list": (),
    "show": ("tiny.toml",),
    "doctor": (),
    "explain": ("MB301",),
    "run": ("tiny.toml", "--fast", "--min-duration", "0.05", "-o", "out"),
    "export": ("tiny.toml", "-o", "again/fp32.onnx"),
    "simplify": ("again/fp32.onnx",),
    "calibrate": ("out/simplified.onnx", *QUANTIZING),
    "quantize": ("out/simplified.onnx", *QUANTIZING, "--fast", "-o", "again/int8.onnx"),
    "audit": ("out/int8.onnx",),
    "verify": FILES,
    "bench": (*FILES[1:], "--min-duration", "0.05", "--processes", "1", "-o", "bench.json"),
    "evaluate": (*FILES, "--data", "labels.csv", "-o", "evaluation.json"),
    "sweep": ("tiny.toml", "--dry-run", "--rho", "32,64", "--store", "store"),
    "search": tuple("tiny.toml --dry-run --rho 32,64 --quality sqnr --target-latency 1ms --store store".split()),
    "report": ("./out", "./out"),
    "verify-artifacts": ("./out",),
    "bundle": ("./out",),
    "inspect": ("out/simplified.onnx",),
}
#: Those that are not called here, and why.
ELSEWHERE = {
    "check": "tests/gating: it needs a card with budgets, and minutes",
    "demo": "it needs trained weights",
    "init": "it writes a card and measures its budgets, with its own tests",
    "history": "tests/remembering: its commands are several",
    "targets": "tests/cli/test_targets.py: its commands are several",
}


def test_every_command_is_called_or_says_why_not() -> None:
    assert set(CALLS) | set(ELSEWHERE) == set(COMMANDS)


@pytest.mark.sweep
def test_json_is_alone_on_standard_output(tmp_path: Path, tiny_card: Path) -> None:
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    (tmp_path / "labels.csv").write_text("file,label\n" + "".join(f"photos/{name},0\n" for name in names))
    assert tiny_card.parent == tmp_path
    for name, words in CALLS.items():
        call(tmp_path, name, *words)


@pytest.mark.sweep
def test_so_it_is_where_native_code_has_run(tmp_path: Path, conv_model_file: Path, photo_folder: Path) -> None:
    assert conv_model_file.parent == photo_folder.parent == tmp_path
    call(tmp_path, "quantize", "conv.onnx", "--calibration", "./photos", "--preprocess", "unit", "--fast")
    call(tmp_path, "audit", "conv.int8.onnx")
    call(tmp_path, "bench", "conv.onnx", "conv.int8.onnx", "--min-duration", "0.05", "--processes", "1")


def call(folder: Path, *words: str) -> None:
    argv = [sys.executable, "-m", "mbdeploy.cli", *words, "--format", "json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode in (EXIT_OK, EXIT_GATE_FAILED, EXIT_INCONCLUSIVE), (words, done.stderr)
    json.loads(done.stdout)  # all of it
    assert "Traceback" not in done.stderr, words
