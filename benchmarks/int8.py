"""INT8 against FP32 on real labelled photographs: SQNR, agreement, top-1, and paired latency, in one run.

    python benchmarks/int8.py efficientnet_lite0 LABELS.csv
    python benchmarks/int8.py efficientnet_lite0 LABELS.csv --calibration photos
    python benchmarks/int8.py MODEL.onnx LABELS.csv --preprocess tf

A card is exported first; an ONNX file is taken as it is. Then: simplify, quantize on 128 of the images (or on
--calibration), evaluate on the others, bench. The raw file is also timed against the simplified one.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from pathlib import Path

import msgspec

import mbdeploy
from mbdeploy import data, derive


def write_remaining(labels: Path, taken: set[str], target: Path) -> int:
    """A CSV of the images that calibration did not see."""
    with labels.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.DictReader(file) if row["file"] not in taken]
    with target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label"])
        writer.writerows([str((labels.parent / row["file"]).resolve()), row["label"]] for row in rows)
    return len(rows)


def split_images(labels: Path, calibrating: int, rest: Path, limit: int | None = None) -> int:
    """Write the labelled images that calibration will not see to ``rest``; how many of them are to evaluate."""
    seen = data.open_dataset(str(labels), split="calibrate", limit=calibrating)
    count = write_remaining(labels, {Path(sample.path).name for sample in seen.samples}, rest)
    return min(count, limit or count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("labels", type=Path)
    parser.add_argument("--calibration")
    parser.add_argument("--preprocess")
    parser.add_argument("--method", help="calibration method")
    parser.add_argument("--recipe", default="accurate")
    parser.add_argument("--keep-float", action="append", default=[], metavar="PATTERN", help="nodes that stay in float")
    parser.add_argument("--seed", type=int, default=0, help="draws the images that calibrate: another split")
    parser.add_argument("--provider", action="append")
    parser.add_argument("--min-duration", type=float, default=10.0)
    arguments = parser.parse_args()
    calibration = arguments.calibration or str(arguments.labels)
    providers = arguments.provider or ["cpu"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "fp32.onnx"
        if arguments.model.endswith(".onnx"):
            raw.write_bytes(Path(arguments.model).read_bytes())
        else:
            mbdeploy.export(arguments.model, output=raw)
        simplified, int8, rest = folder / "simplified.onnx", folder / "int8.onnx", folder / "rest.csv"
        mbdeploy.simplify(raw, output=simplified)
        made = mbdeploy.quantize(
            simplified,
            output=int8,
            calibration=calibration,
            preprocess=arguments.preprocess,
            calibration_method=arguments.method,
            recipe=arguments.recipe,
            keep_float=arguments.keep_float,
            seed=arguments.seed,
        )
        seen = data.open_dataset(calibration, split="calibrate", limit=128, seed=arguments.seed).samples
        count = write_remaining(arguments.labels, {Path(sample.path).name for sample in seen}, rest)
        images = {"data": str(rest), "preprocess": arguments.preprocess}
        parity = mbdeploy.verify([int8], reference=simplified, num_samples=count, providers=providers, **images)
        evaluated = mbdeploy.evaluate([int8], against=simplified, **images)
        changed = derive.compare_predictions(evaluated, 1)
        cells = {
            f"{row.provider} {row.mode}{' against exact' if row.against == 'exact' else ''}": row.metrics
            for row in parity.rows
        }
        inputs = rest if arguments.preprocess else None
        [run] = mbdeploy.bench(
            [simplified, raw, int8], inputs=inputs, preprocess=arguments.preprocess, min_duration=arguments.min_duration
        )
        answer = {
            "model": Path(arguments.model).name,
            "calibration": Path(calibration).name,
            "recipe": arguments.recipe,
            "method": arguments.method,
            "keep_float": arguments.keep_float,
            "seed": arguments.seed,
            "n": count,
            "sqnr_db": {name: round(metrics.sqnr_db, 2) for name, metrics in cells.items()},
            "agreement": {name: metrics.top1_agreement for name, metrics in cells.items()},
            "top1_fp32": derive.estimate_accuracy(evaluated, 0),
            "top1_int8": derive.estimate_accuracy(evaluated, 1),
            "top1_changed": changed,
            "cpu_time_ratio": {
                "raw / simplified": derive.compare_series(run, 1),
                "int8 / simplified": derive.compare_series(run, 2),
                "control": derive.compare_series(run, -1),
            },
            "pairs": len(run.control.wall_ns),
            "host": {"cpu": run.host.cpu, "isa": run.host.isa},
            "operators": made.operators,
        }
        print(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())


if __name__ == "__main__":
    main()
