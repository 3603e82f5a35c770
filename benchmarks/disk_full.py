"""Run `mbdeploy run` on a disk that fills up at many points: one clear line, no torn file, and the next run completes.

    python benchmarks/disk_full.py [--card mobilenet_v1_025] [--points 50] [--seed 0]

The disk is a tmpfs of a random size, from nothing to a little more than a whole folder needs; where mounting is not
permitted, it is a limit on the size of each file. Before each point about half of the files are removed, so that each
fills up somewhere else. Temporary files of the system go to the full disk too at every second point.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kill_nine import (
    COMPLETED,
    find_leftovers,
    find_orphans,
    find_torn,
    mark_environment,
    remove_half,
    run_command,
)

QUICK = ("--fast", "--min-duration", "0.2", "--num-calibration-samples", "8")


@contextmanager
def mount_disk(place: Path) -> Iterator[bool]:
    """A tmpfs at ``place``; False where it may not be mounted."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)], capture_output=True, check=False)
    try:
        yield mounted.returncode == 0
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(place)], check=True)


def limit_room(place: Path, size: int | None, mounted: bool) -> dict[str, object]:
    """Leave so many bytes on the disk (None: enough), or in each file; keywords for the process that is to feel it."""
    if mounted:
        option = f"remount,size={size or 1 << 32}"
        subprocess.run(["mount", "-o", option, str(place)], check=True)
        return {}
    most = resource.RLIM_INFINITY if size is None else size
    return {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="mobilenet_v1_025")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance, found = random.Random(arguments.seed), Counter[str]()
    torn: list[str] = []
    orphans: list[int] = []
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as name, mount_disk(Path(name)) as mounted:
        folder, scratch = Path(name) / "out", Path(name) / "tmp"
        scratch.mkdir()
        command = run_command(arguments.card, folder, *QUICK)
        started = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        whole_s = time.monotonic() - started
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        most = round(1.1 * (sum(files) if mounted else max(files)))
        for point in range(arguments.points):
            remove_half(folder, chance)
            used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if mounted else 0
            room = limit_room(Path(name), used + chance.randrange(4096, most - used), mounted)
            mark = f"{Path(name).name}-{point}."
            environment = {**mark_environment(mark), **({"TMPDIR": str(scratch)} if point % 2 else {})}
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, **room)  # type: ignore[call-overload]
            found[f"exit {done.returncode}"] += 1
            if done.returncode not in (*COMPLETED, 2) or (done.returncode == 2 and done.stderr.count("\n") != 1):
                wrong.append(f"exit {done.returncode}: {done.stderr.strip()[-300:]}")
            torn += find_torn(folder, completed=done.returncode in COMPLETED)
            orphans += find_orphans(mark)
            limit_room(Path(name), None, mounted)
            faults = f"{len(torn)} torn, {len(orphans)} orphans, {len(wrong)} wrong"
            print(f"{point + 1} of {arguments.points} points: {dict(found)}; {faults}", file=sys.stderr)
        last = subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode
        torn += find_torn(folder, completed=True)
        leftovers = find_leftovers(folder)
    disk = "tmpfs" if mounted else "limit on each file"
    print(
        json.dumps(
            {
                "card": arguments.card,
                "disk": disk,
                "run_s": round(whole_s, 1),
                "points": arguments.points,
                "ended": dict(found),
                "torn": torn,
                "orphans": len(orphans),
                "leftovers": leftovers,
                "wrong": wrong,
                "next_run": last,
            },
            indent=1,
        )
    )
    if torn or orphans or leftovers or wrong or last not in COMPLETED:
        sys.exit(1)


if __name__ == "__main__":
    main()
