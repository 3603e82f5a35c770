"""What a run leaves, as small files with right sidecars, one at a time."""

from __future__ import annotations

from pathlib import Path

from mbdeploy import artifact
from mbdeploy.artifact import Provenance

#: File -> its stage, and its parents by role: a file of the folder, or a sha256 from outside.
FILES = {
    "fp32.onnx": ("export", {"golden_data": "0" * 64}),
    "golden.npz": ("export", {"golden_data": "0" * 64}),
    "simplified.onnx": ("simplify", {"model": "fp32.onnx", "golden": "golden.npz"}),
    "int8.onnx": ("quantize", {"model": "simplified.onnx", "calibration": "1" * 64}),
    "results/parity.json": ("verify", {"model 0": "fp32.onnx", "model 1": "simplified.onnx", "model 2": "int8.onnx"}),
    "report.md": ("report", {"int8": "int8.onnx", "parity": "results/parity.json"}),
}


def make_file(folder: Path, name: str, content: bytes) -> None:
    """Make one of ``FILES`` and its sidecar, from its parents as they are now."""
    stage, parents = FILES[name]
    digests = {role: artifact.hash_file(folder / one) if one in FILES else one for role, one in parents.items()}
    artifact.write_bytes(folder / name, content)
    provenance = Provenance(stage=stage, params={}, parents=digests, tools={"onnx": "1.21.0"})
    artifact.write_sidecar(folder / name, provenance, {"max_abs": 0.5})
