"""Same inputs, same bytes: a run elsewhere, with another home, hash seed and time zone, leaves the same files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mbdeploy.provenance.checking import verify_artifacts

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
quantization = { calibration = "photos", num_calibration_samples = 3 }
"""
#: What is measured, and so is another number every time: results, pages that show them, and these keys of a sidecar.
MEASURED_FILES = {"results/parity.json", "results/bench.json", "report.html", "report.md"}
MEASURED_KEYS = {"cpu_s", "peak_bytes", "torch_export_s"}


def run_at(place: Path, photos: Path, **environment: str) -> Path:
    """Run the card in a folder of its own, then pack the bundle; everything below ``place`` is made here."""
    for name in ("home", "scratch"):
        (place / name).mkdir(parents=True)
    shutil.copytree(photos, place / "photos")
    (place / "tiny.toml").write_text(CARD)
    quick = ("--fast", "--min-duration", "0.05", "-o", "out")
    for words in (("run", "tiny.toml", *quick), ("bundle", "./out", "--all", "-o", "out/tiny.zip")):
        subprocess.run(
            [sys.executable, "-m", "mbdeploy.cli", *words],
            cwd=place,
            check=True,
            capture_output=True,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
                "HOME": str(place / "home"),
                "TMPDIR": str(place / "scratch"),
                **environment,
            },
        )
    return place / "out"


def read_plain(path: Path, name: str) -> Any:
    """What must be equal of a file: its bytes; of a sidecar and the manifest, all that is not measured."""
    if name == "manifest.json":
        entries = json.loads(path.read_bytes())["artifacts"]
        return {key: {**entry, "sidecar_sha256": ""} for key, entry in entries.items() if key not in MEASURED_FILES} | {
            "names": sorted(entries)
        }
    if name.endswith(".json"):
        sidecar = json.loads(path.read_bytes())
        sidecar["record"] = {k: v for k, v in (sidecar["record"] or {}).items() if k not in MEASURED_KEYS}
        if name.removesuffix(".json") in MEASURED_FILES:
            return sidecar["provenance"]["tools"]
        return sidecar
    return path.read_bytes()


@pytest.mark.sweep
def test_the_same_inputs_give_the_same_bytes_in_another_place_and_another_environment(
    tmp_path: Path, photo_folder: Path
) -> None:
    first = run_at(tmp_path / "a", photo_folder, PYTHONHASHSEED="1", TZ="UTC", LC_ALL="C")
    second = run_at(tmp_path / "b c" / "deep", photo_folder, PYTHONHASHSEED="4711", TZ="Asia/Kathmandu", LANG="C.UTF-8")
    names = [{path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} for out in (first, second)]
    assert names[0] == names[1] and {"int8.onnx", "golden.npz", "tiny.zip", "manifest.json"} <= names[0]
    for name in sorted(names[0] - MEASURED_FILES):
        assert read_plain(first / name, name) == read_plain(second / name, name), name
    for out in (first, second):
        assert verify_artifacts(out).holds
        assert not [path for path in (out.parent / "scratch").rglob("*") if path.is_file()]
