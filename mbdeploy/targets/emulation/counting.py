"""Marks where each run of a session begins and ends: a program for inside the emulator, in the agent's place.

    python counting.py agent.py FOLDER

The plugin counter.c counts; this says between which instructions. Python >= 3.9, numpy and the agent only.
"""

import ctypes
import gc
import importlib.util
import sys
from typing import Any

import numpy as np

MARK = 0x6D62636E  # as in counter.c
WARM_RUNS, ROUNDS = 2, 3


def mark(number: int) -> None:
    """Have the plugin write down its count, at the cost of a call that the kernel refuses."""
    ctypes.CDLL(None).getpriority(MARK, number)


def count(agent: Any, job: dict[str, Any]) -> list[dict[str, Any]]:
    """Every session in turn over the first batch. Marks come in pairs, around each run."""
    images = np.ascontiguousarray(agent.load_images()[: job["batch_size"]])
    number, results = 0, []
    gc.disable()
    for index in range(len(job["sessions"])):
        session = agent.open_session(job, index)
        for _ in range(WARM_RUNS):
            agent.run_checked(session, images)
        for _ in range(ROUNDS):
            mark(number)
            session.run(images)
            mark(number + 1)
            number += 2
        results.append({"settings": session.settings})
    return results


def main(path: str, folder: str) -> int:
    spec = importlib.util.spec_from_file_location("agent", path)
    if spec is None or spec.loader is None:
        return 2
    agent = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(agent)
    agent.end_with_parent()
    agent.JOBS["infer"] = lambda job: count(agent, job)
    return int(agent.main(folder))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
