"""What mbdeploy adds: `export` over torch.onnx.export by itself, a `run` with nothing to do, and `--help`.

    python benchmarks/overhead.py [--card efficientnet_lite0] [--pairs 4] [--out FOLDER_OF_A_FINISHED_RUN]

Each figure is of whole fresh processes, children included, in the order A B B A; ratios are medians over pairs.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("torch", "onnx", "onnxruntime", "numpy", "PIL", "onnxsim")
EXPORT_ALONE = """
import sys, torch
from mbdeploy.card import load_card
from mbdeploy.nets.weights import load_network
card = load_card(sys.argv[1])
images = torch.zeros(2, card.preprocess.channels, card.preprocess.size, card.preprocess.size)
shapes = ({0: torch.export.Dim("batch")},)
program = torch.onnx.export(load_network(card), (images,), dynamo=True, dynamic_shapes=shapes, verbose=False)
program.save(sys.argv[2])
"""


def measure(argv: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a command, its children included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--card", default="efficientnet_lite0")
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--out", type=Path, help="where a run of this card lies; without it one is made")
    arguments = parser.parse_args()
    program = [sys.executable, "-m", "mbdeploy.cli"]
    with tempfile.TemporaryDirectory() as name:
        alone = [sys.executable, "-c", EXPORT_ALONE, arguments.card, f"{name}/alone.onnx"]
        ours = [*program, "export", arguments.card, "-o", f"{name}/ours/fp32.onnx"]
        taken: dict[str, list[tuple[float, float]]] = {"alone": [], "ours": []}
        for pair in range(arguments.pairs):
            order = [("alone", alone), ("ours", ours)]
            for who, argv in order if pair % 2 == 0 else reversed(order):
                taken[who].append(measure(argv))
        folder = arguments.out or Path(name) / "run"
        run = [*program, "run", arguments.card, "-o", str(folder), "--quiet"]
        measure(run)
        fresh = [measure(run) for _ in range(5)]
    ratios = [
        [mine[clock] / bare[clock] for mine, bare in zip(taken["ours"], taken["alone"], strict=True)]
        for clock in (0, 1)
    ]
    shown = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "mbdeploy.cli", "--help"], check=True, capture_output=True, text=True
    )
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in shown.stderr.splitlines()}
    answer = {
        "card": arguments.card,
        "pairs": arguments.pairs,
        "export_over_torch_alone": {
            "wall": round(statistics.median(ratios[0]), 3),
            "cpu": round(statistics.median(ratios[1]), 3),
        },
        "fresh_run_s": {
            "wall": round(statistics.median(wall for wall, _ in fresh), 2),
            "cpu": round(statistics.median(cpu for _, cpu in fresh), 2),
            "n": len(fresh),
        },
        "heavy_modules_loaded_by_help": sorted(loaded & set(HEAVY)),
    }
    print(json.dumps(answer, indent=1))


if __name__ == "__main__":
    main()
