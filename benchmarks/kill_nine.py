"""Kill `mbdeploy run` with SIGKILL at random moments: no torn file, no orphan, and the next run completes.

    python benchmarks/kill_nine.py [--card mobilenet_v1_025] [--kills 50] [--seed 0]

A kill takes the command's own process; its children have to notice. Every second kill comes within 50 ms of the start
of a child, which has not noticed anything yet. A file is torn if it lies under its final name and cannot be read to the
end, or if a sidecar that was written after it vouches for other bytes; after every tenth kill and after the last, the
next run has to complete, and then no sidecar may. Leftovers under temporary names are allowed, and must be gone after
that run. An orphan is a process of the run, known by a mark in its environment, that is there three seconds later.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
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

#: Exit codes of a run that came to its end: every gate held, one failed, or the machine was too unsteady for a verdict.
COMPLETED = (0, 1, 4)
READERS = {
    ".onnx": onnx.load,
    ".json": lambda path: json.loads(path.read_bytes()),
    ".npz": lambda path: [array.shape for array in np.load(path).values()],
}
KILLS_PER_WHOLE_RUN = 10
#: How long a child may take to notice that its parent is gone: as long as a Python takes to start on a busy machine.
NOTICE_S = 3.0
#: How soon after the start of a child every second kill comes.
EARLY_S = 0.05


def run_command(card: str, folder: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "mbdeploy.cli", "run", card, "-o", str(folder), "--quiet", *options]


def mark_environment(mark: str) -> dict[str, str]:
    """This process's environment with a mark that every child gets: a folder that is not there, last on PATH.

    Isolation passes on few variables, and mbdeploy reads the others of those.
    """
    return {**os.environ, "PATH": f"{os.environ['PATH']}{os.pathsep}/{mark}"}


def find_marked(mark: str) -> list[int]:
    """Processes whose environment has the mark, zombies left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it has ended, or is somebody else's
                if mark.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found


def find_orphans(mark: str, wait_s: float = NOTICE_S) -> list[int]:
    """Processes of a run that has ended, still there after ``wait_s``; they are ended, to be in nobody's way."""
    deadline, empty = time.monotonic() + wait_s, 0
    while (found := find_marked(mark)) or empty < 2:  # one that is just being replaced by exec shows no environment
        empty = 0 if found else empty + 1
        if found and time.monotonic() > deadline:
            break
        time.sleep(0.05)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def find_torn(folder: Path, *, completed: bool = False) -> list[str]:
    """Files under their final names that cannot be read to the end, or are not what their sidecars vouch for.

    A sidecar is written last: one that is older than its file vouches for the file before, and makes that stage run
    again. After a run that ``completed`` there is none such.
    """
    torn = []
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix in READERS:
            try:
                READERS[path.suffix](path)
                if told := describe_pair(path, completed):
                    torn.append(told)
            except Exception as error:
                torn.append(f"{path.name}: {error}")
    return torn


def describe_pair(path: Path, completed: bool) -> str:
    """How a file and its sidecar disagree; nothing where they do not, or where there is no sidecar."""
    sidecar = path.with_name(path.name + ".json")
    if not sidecar.is_file():
        return ""
    told = json.loads(sidecar.read_bytes())["sha256"]
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if told == found or (not completed and path.stat().st_mtime_ns > sidecar.stat().st_mtime_ns):
        return ""
    return f"{path.name}: {found[:12]}…, and its sidecar vouches for {told[:12]}…"


def find_leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.name.endswith("mbdeploy-tmp")]


def remove_half(folder: Path, chance: random.Random) -> None:
    """Remove about half of the files, so that the next run finds other work to do."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if chance.random() < 0.5 and path.is_file():
            path.unlink()


def list_children(pid: int) -> set[str]:
    found: set[str] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found.update(path.read_text().split())
    return found


def kill_run(command: list[str], mark: str, after_s: float, early_s: float | None) -> bool:
    """Start a run and kill it ``after_s`` later, or ``early_s`` after the next child; False: it had ended."""
    process = subprocess.Popen(
        command,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=mark_environment(mark),
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=after_s)
    if early_s is not None:
        known = list_children(process.pid)
        while process.poll() is None and not list_children(process.pid) - known:
            time.sleep(0.002)
        time.sleep(early_s)
    was_running = process.poll() is None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return was_running


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="mobilenet_v1_025")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    quick = ("--min-duration", "0.2", "--num-calibration-samples", "8")
    torn: list[str] = []
    orphans: list[str] = []
    leftovers: list[str] = []
    killed, early = 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        command = run_command(arguments.card, folder, *quick)
        started = time.monotonic()
        ended = [subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode]
        whole = time.monotonic() - started
        for number in range(1, arguments.kills + 1):
            remove_half(folder, chance)
            mark, is_early = f"{Path(name).name}-{number}.", number % 2 == 0
            after_s, early_s = chance.uniform(0, whole), chance.uniform(0, EARLY_S)
            was_running = kill_run(command, mark, after_s, early_s if is_early else None)
            killed += was_running
            early += was_running and is_early
            orphans += [f"{pid} of kill {number}" for pid in find_orphans(mark)]
            torn += find_torn(folder)
            if number % KILLS_PER_WHOLE_RUN == 0 or number == arguments.kills:
                ended.append(subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode)
                torn += find_torn(folder, completed=True)
                leftovers += find_leftovers(folder)
                faults = f"{len(torn)} torn, {len(orphans)} orphans, {len(leftovers)} leftovers, ended {ended}"
                print(f"{number} of {arguments.kills} kills: {killed} while running; {faults}", file=sys.stderr)
        done = {"run_s": round(whole, 1), "kills": arguments.kills, "killed_while_running": killed, "early": early}
        found = {"torn": torn, "orphans": orphans, "leftovers": leftovers, "whole_runs": ended}
        print(json.dumps({"card": arguments.card, **done, **found}, indent=1))
    if torn or orphans or leftovers or {*ended} - {*COMPLETED}:
        sys.exit(1)


if __name__ == "__main__":
    main()
