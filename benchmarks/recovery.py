"""What each technique of accuracy recovery brings: the recipe `accurate`, less one technique at a time, and `portable`.

    python benchmarks/recovery.py MODEL.onnx LABELS.csv --preprocess tf

MODEL is a simplified float file. The first 128 of the images calibrate, and the others (or --num-samples of them)
are evaluated. One thread. The last figure is the CPU time of `accurate` over `portable`: the graphs are the same.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from int8 import split_images

import mbdeploy
from mbdeploy import derive

ROWS: dict[str, dict[str, Any]] = {
    "portable, without bias": {"recipe": "portable", "without": ("bias",)},
    "portable": {"recipe": "portable"},
    "portable, mse ranges": {"recipe": "portable", "calibration_method": "mse"},
    "accurate": {"recipe": "accurate"},
    "accurate, minmax ranges": {"recipe": "accurate", "calibration_method": "minmax"},
    "accurate, without refit": {"recipe": "accurate", "without": ("refit",)},
    "accurate, without feedback": {"recipe": "accurate", "without": ("feedback",)},
    "accurate, without bias": {"recipe": "accurate", "without": ("bias",)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--num-calibration-samples", type=int, default=128)
    parser.add_argument("--min-duration", type=float, default=10.0)
    arguments = parser.parse_args()
    images = {"calibration": str(arguments.labels), "num_calibration_samples": arguments.num_calibration_samples}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rest = folder / "rest.csv"
        count = split_images(arguments.labels, arguments.num_calibration_samples, rest, arguments.num_samples)
        files, costs = [], []
        for number, options in enumerate(ROWS.values()):
            file = folder / f"{number}.onnx"
            made = mbdeploy.quantize(arguments.model, output=file, preprocess=arguments.preprocess, **images, **options)
            files.append(file)
            costs.append({"quantize_cpu_s": made.cpu_s, "peak_mb": round(made.peak_bytes / 1e6)})
        parity = mbdeploy.verify(
            files, reference=arguments.model, data=str(rest), preprocess=arguments.preprocess, num_samples=count
        )
        found: dict[str, dict[str, Any]] = {row: dict(cost) for row, cost in zip(ROWS, costs, strict=True)}
        names = list(ROWS)
        for cell in parity.rows:
            row = found[names[int(Path(cell.model.name).stem)]]
            if cell.against != "exact":
                row[f"sqnr_db {cell.mode}"] = round(cell.metrics.sqnr_db, 2)
                row[f"agreement {cell.mode}"] = cell.metrics.top1_agreement
        inputs = rest if arguments.preprocess else None
        pair = [files[names.index("portable")], files[names.index("accurate")]]
        [run] = mbdeploy.bench(
            pair, inputs=inputs, preprocess=arguments.preprocess, min_duration=arguments.min_duration
        )
        answer = {
            "model": arguments.model.name,
            "n": count,
            "rows": found,
            "cpu_time accurate / portable": derive.compare_series(run, 1),
            "control": derive.compare_series(run, -1),
            "pairs": len(run.control.wall_ns),
            "host": {"cpu": run.host.cpu, "isa": run.host.isa},
        }
        print(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())


if __name__ == "__main__":
    main()
