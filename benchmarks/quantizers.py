"""mbdeploy beside other quantizers: accuracy, cost of quantizing, latency and size of the INT8 files, in one run.

    python benchmarks/quantizers.py MODEL.onnx LABELS.csv --venvs FOLDER
    python benchmarks/quantizers.py MODEL.onnx LABELS.csv --venvs FOLDER --preprocess tf --emulated cpu@qemu:haswell

MODEL is a simplified float file. --num-calibration-samples of the images calibrate, --num-samples of the others
evaluate; every quantizer gets the same preprocessed array. Each peer lives in a virtual environment of its own below
--venvs, which is made from benchmarks/peers/*.txt if it is not there; one that cannot be installed, or that fails or
takes more than --limit CPU seconds, is a row that says so. Quantizing is held to one CPU core and one thread. SQNR
and agreement are against MODEL, CPU time is over MODEL as onnxruntime optimises it, one thread, in turns. --markdown
also writes the table to a file, and --keep the files to a folder.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from int8 import write_remaining
from peer import Row, command_of, prepare_venv, quantize_row, read_versions, write_job

import mbdeploy
from mbdeploy import artifact, data, derive
from mbdeploy.stages.subject import choose_preprocess, read_subject

ROWS = (
    Row("mbdeploy", "accurate", "mbdeploy, `accurate` (its default)"),
    Row("mbdeploy", "portable", "mbdeploy, `portable` (`--fast`)"),
    Row("ort", "defaults", "`quantize_static`, defaults"),
    Row("ort", "per-channel", "`quantize_static`, U8S8, per channel"),
    Row("ort", "best", "`quantize_static`, U8S8, per channel, `reduce_range`"),
    Row("quark", "defaults", "Quark, A8W8"),
    Row("quark", "per-channel", "Quark, INT8_CNN_DEFAULT, per channel, biases kept in range"),
    Row("quark", "best", "Quark, the same, `reduce_range`"),
    Row("quark", "adaround", "Quark, INT8_CNN_ACCURATE (AdaRound)"),
    Row("nncf", "defaults", "NNCF, defaults"),
    Row("nncf", "best", "NNCF, MIXED, slow bias correction, overflow fix"),
)


def write_images(arguments: argparse.Namespace, folder: Path) -> tuple[Path, Path, int]:
    """The images that calibrate and those that evaluate, preprocessed once: two .npz files, and n of the second."""
    subject = read_subject(arguments.model)
    calibration, evaluation, rest = folder / "calibration.npz", folder / "evaluation.npz", folder / "rest.csv"
    seen = data.open_dataset(arguments.labels, split="calibrate", limit=arguments.num_calibration_samples)
    write_remaining(arguments.labels, {Path(sample.path).name for sample in seen.samples}, rest)
    unseen = data.open_dataset(rest, labelled=True, limit=arguments.num_samples)
    for dataset, file in ((seen, calibration), (unseen, evaluation)):
        how = choose_preprocess(dataset, [subject], arguments.preprocess)
        labels = {"labels": np.array([sample.label for sample in dataset.samples])} if dataset is unseen else {}
        np.savez(file, inputs=data.load_arrays(dataset, how), **labels)
    return calibration, evaluation, len(unseen)


def quantize_all(arguments: argparse.Namespace, folder: Path, calibration: Path) -> tuple[list[dict[str, Any]], Any]:
    """Every row's file, made one after another; the rows, and each peer's versions or why it is missing."""
    name = read_subject(arguments.model).signature.input
    pythons: dict[str, Path | None] = {"mbdeploy": None}
    peers: dict[str, Any] = {"mbdeploy": artifact.read_tools("mbdeploy", "onnxruntime", "onnx", "numpy")}
    found = []
    for row in (row for row in ROWS if row.tool in arguments.tools):
        cells: dict[str, Any] = {"file": f"{row.tool}-{row.setting}", "words": row.words}
        if row.tool not in peers:
            try:
                python = prepare_venv(row.tool, arguments.venvs)
                pythons[row.tool], peers[row.tool] = python, read_versions(row.tool, python)
            except subprocess.CalledProcessError as error:
                peers[row.tool] = {"not installed": (error.stderr or str(error)).strip()[-300:]}
        if cells["file"] in arguments.skip:
            cells["failed"] = "not run (--skip)"
        elif row.tool in pythons:
            job = write_job(folder, row, arguments.model, calibration, name)
            output = folder / f"{row.tool}-{row.setting}.onnx"
            cells |= quantize_row(command_of(row, job, pythons[row.tool]), output, arguments.limit)
        else:
            cells["failed"] = "not installed"
        print(json.dumps(cells), file=sys.stderr)
        found.append(cells)
    return found, peers


def compare_files(arguments: argparse.Namespace, files: list[Path], evaluation: Path, rows: dict[str, Any]) -> Any:
    """Fill in what the files answer and how long they take; the host."""
    report = mbdeploy.evaluate(files, against=arguments.model, data=str(evaluation))
    for index, (model, metrics) in enumerate(zip(report.models[1:], report.metrics, strict=True), start=1):
        rows[model.model.name] |= {
            "sqnr_db": round(metrics.sqnr_db, 2),
            "agreement": metrics.top1_agreement,
            "top1": derive.estimate_accuracy(report, index).value,
            "top1_minus_fp32": derive.compare_predictions(report, index).difference,
        }
    asked = [("cpu", arguments.num_exact)]
    if arguments.emulated:
        asked.append((arguments.emulated, arguments.num_emulated))
    for provider, count in asked:
        parity = mbdeploy.verify(
            files, reference=arguments.model, data=str(evaluation), num_samples=count, providers=[provider]
        )
        for cell in parity.rows:
            if cell.against == "reference":
                rows[cell.model.name][f"sqnr_db {provider} {cell.mode}"] = round(cell.metrics.sqnr_db, 2)
    [run] = mbdeploy.bench([arguments.model, *files], inputs=evaluation, min_duration=arguments.min_duration)
    for index, series in enumerate(run.series[1:], start=1):
        rows[series.model.name]["cpu_time_ratio"] = derive.compare_series(run, index)
    return {
        "top1_fp32": derive.estimate_accuracy(report, 0),
        "cpu_time_control": derive.compare_series(run, -1),
        "pairs": len(run.control.cpu_ns),
        "host": {"cpu": run.host.cpu, "isa": run.host.isa, "versions": run.host.versions},
    }


def format_table(rows: list[dict[str, Any]], emulated: str | None) -> str:
    """The rows as a Markdown table; a row without a file keeps its line and says why in it."""
    without = [f"without VNNI ({emulated})"] if emulated else []
    heads = ["quantizer", "SQNR, dB", "executed / exact", *without, "agreement", "top-1 − FP32, points"]
    heads += ["CPU time of inference", "size, MB", "quantizing, CPU s", "peak memory, MB"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for row in rows:
        if "failed" in row:
            lines.append(f"| {row['words']} | {row['failed'].replace('|', ' ')} |" + " |" * (len(heads) - 2))
            continue
        drop, ratio = row["top1_minus_fp32"], row["cpu_time_ratio"]
        cells = [row["words"], f"{row['sqnr_db']:.2f}"]
        cells += [f"{row['sqnr_db cpu executed']:.2f} / {row['sqnr_db cpu exact']:.2f}"]
        cells += [f"{row[f'sqnr_db {emulated} executed']:.2f}"] if emulated else []
        cells += [f"{row['agreement']:.1%}".replace("%", " %")]
        cells += [f"{100 * drop.value:+.1f} [{100 * drop.low:+.1f}, {100 * drop.high:+.1f}]".replace("-", "−")]
        cells += [f"{ratio.value:.3f}", f"{row['size_mb']:.2f}"]
        cells += [f"{row['quantize_cpu_s']:.0f}", f"{row['peak_mb']}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--venvs", type=Path, required=True)
    parser.add_argument("--preprocess")
    parser.add_argument("--num-calibration-samples", type=int, default=128)
    parser.add_argument("--num-samples", type=int, default=300)
    parser.add_argument("--num-exact", type=int, default=64, help="images on which executed and exact are compared")
    parser.add_argument("--emulated", help="also execute on this provider, such as cpu@qemu:haswell")
    parser.add_argument("--num-emulated", type=int, default=8)
    parser.add_argument("--limit", type=int, default=900, help="CPU seconds that one quantization may take")
    parser.add_argument("--min-duration", type=float, default=5.0)
    parser.add_argument("--tools", nargs="+", default=["mbdeploy", "ort", "nncf", "quark"])
    parser.add_argument("--skip", nargs="+", default=[], help="rows to leave out, such as quark-adaround")
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        calibration, evaluation, count = write_images(arguments, folder)
        arguments.num_samples = count
        rows, peers = quantize_all(arguments, folder, calibration)
        files = [folder / f"{row['file']}.onnx" for row in rows if "failed" not in row]
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for file in files:
                shutil.copy(file, arguments.keep)
        measured = compare_files(arguments, files, evaluation, {row["file"]: row for row in rows})
    if arguments.markdown:
        arguments.markdown.write_text(format_table(rows, arguments.emulated), encoding="utf-8")
    answer = {
        "model": arguments.model.name,
        "date": datetime.date.today().isoformat(),
        "n": count,
        "n_calibration": arguments.num_calibration_samples,
        "n_exact": arguments.num_exact,
        "n_emulated": arguments.num_emulated if arguments.emulated else 0,
        "versions": peers,
        "rows": rows,
        **measured,
    }
    print(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())


if __name__ == "__main__":
    main()
