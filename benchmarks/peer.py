"""One quantizer and one setting of it: its environment, its job, and the run of it, measured or with its reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from quantize_cost import measure_process

PEERS = Path(__file__).parent / "peers"


class Row(NamedTuple):
    """One line of the table: whose file, at which setting, and what that setting is in words."""

    tool: str
    setting: str
    words: str


# One core and one thread for whatever the quantizer starts; a limit on CPU time; what it says goes to a log.
START = (
    "import os, resource, sys\n"
    "log, limit = sys.argv[1], int(sys.argv[2])\n"
    "if hasattr(os, 'sched_setaffinity'):\n"
    "    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
    "for name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):\n"
    "    os.environ[name] = '1'\n"
    "resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))\n"
    "out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)\n"
    "os.dup2(out, 1), os.dup2(out, 2)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)


def read_pins(tool: str) -> list[str]:
    """The pinned requirements of a peer, one a line."""
    return (PEERS / f"{tool}.txt").read_text(encoding="utf-8").split()


def prepare_venv(tool: str, venvs: Path) -> Path:
    """The Python of the peer's environment, made and filled if need be; raises CalledProcessError if it cannot be."""
    python = (venvs / tool / "bin" / "python").absolute()
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(venvs / tool)], check=True, capture_output=True, text=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(PEERS / f"{tool}.txt")], check=True, capture_output=True, text=True)
    return python


def read_versions(tool: str, python: Path) -> dict[str, str]:
    """The installed versions of what a peer's requirements name."""
    names = [pin.partition("==")[0] for pin in read_pins(tool)]
    code = (
        "import json, sys; from importlib.metadata import version\n"
        "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
    )
    answer = subprocess.run([str(python), "-c", code, *names], check=True, capture_output=True, text=True)
    versions: dict[str, str] = json.loads(answer.stdout)
    return versions


def write_job(folder: Path, row: Row, model: Path, calibration: Path, name: str) -> Path:
    """What a peer's script reads: the float file, the name of its input, the images, the setting, where to write."""
    job = {
        "model": str(model),
        "input": name,
        "calibration": str(calibration),
        "setting": row.setting,
        "output": str(folder / f"{row.tool}-{row.setting}.onnx"),
    }
    file = folder / f"{row.tool}-{row.setting}.json"
    file.write_text(json.dumps(job), encoding="utf-8")
    return file


def command_of(row: Row, job: Path, python: Path | None) -> list[str]:
    """The command line that quantizes: mbdeploy's own, or the peer's script in the peer's Python."""
    if python is not None:
        return [str(python), str(PEERS / f"run_{row.tool}.py"), str(job)]
    asked = json.loads(job.read_text(encoding="utf-8"))
    ours = [sys.executable, "-m", "mbdeploy.cli", "quantize", asked["model"], "-o", asked["output"]]
    count = str(len(np.load(asked["calibration"])["inputs"]))
    return [*ours, "--calibration", asked["calibration"], "--num-calibration-samples", count, "--recipe", row.setting]


def quantize_row(argv: list[str], output: Path, limit_s: int) -> dict[str, Any]:
    """CPU seconds and peak memory of one quantization, or why there is no file."""
    log = output.with_suffix(".log")
    try:
        seconds, peak = measure_process([sys.executable, "-c", START, str(log), str(limit_s), *argv])
    except subprocess.CalledProcessError as error:
        if "SIGXCPU" in error.stderr or "SIGKILL" in error.stderr:
            return {"failed": f"no file within {limit_s} s of CPU time"}
        said = log.read_text(encoding="utf-8", errors="replace").split("\n")
        return {"failed": f"failed: {next((line for line in reversed(said) if line.strip()), 'it said nothing')[:300]}"}
    if not output.is_file():
        return {"failed": "failed: it ended well and wrote no file"}
    return {"quantize_cpu_s": round(seconds, 1), "peak_mb": round(peak / 1e6), "size_mb": output.stat().st_size / 1e6}
