"""Kill `mbdeploy run` with SIGKILL at random moments: no torn file under its final name, and the next run completes.

    python benchmarks/kill_nine.py [--card mobilenet_v1_025] [--kills 50] [--seed 0]

A kill takes the command's own process; its children have to notice. A file is torn if it lies under its final name and
cannot be read to the end; leftovers under temporary names are allowed, and must be gone after the next run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx


def run_command(card: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "mbdeploy.cli", "run", card, "-o", str(folder), "--quiet", *options]


#: Exit codes of a run that came to its end: every gate held, one failed, or the machine was too unsteady for a verdict.
COMPLETED = (0, 1, 4)
READERS = {
    ".onnx": onnx.load,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".npz": lambda path: [array.shape for array in np.load(path).values()],
}


def find_torn(folder: Path) -> list[str]:
    """Files under their final names that cannot be read to the end."""
    torn = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except Exception as error:
                torn.append(f"{path.name}: {error}")
    return torn


def find_orphans(folder: Path) -> list[int]:
    """Processes that still name the folder on their command line, a moment after the kill."""
    time.sleep(0.3)
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="mobilenet_v1_025")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    quick = ("--min-duration", "0.2", "--num-calibration-samples", "8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        command = run_command(arguments.card, folder, *quick)
        started = time.monotonic()
        first = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        whole = time.monotonic() - started
        torn, orphans, killed = [], [], 0
        for _ in range(arguments.kills):
            for path in sorted(folder.rglob("*"), reverse=True):
                if moments.random() < 0.5 and path.is_file():
                    path.unlink()  # so that each trial finds other work to do
            process = subprocess.Popen(
                command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                process.wait(timeout=moments.uniform(0, whole))
            except subprocess.TimeoutExpired:
                killed += 1
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            torn += find_torn(folder)
            orphans += find_orphans(folder)
        last = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        leftovers = [path.name for path in folder.rglob(".*") if path.name.endswith("mbdeploy-tmp")]
        whole_run = {"run_s": round(whole, 1), "kills": arguments.kills, "killed_while_running": killed}
        found = {"torn": torn, "orphans": len(orphans), "leftovers": leftovers, "first_run": first, "next_run": last}
        print(json.dumps({"card": arguments.card, **whole_run, **found}, indent=1))
    if torn or orphans or leftovers or {first, last} - {*COMPLETED}:
        sys.exit(1)


if __name__ == "__main__":
    main()
