"""What `quantize` costs by each calibration method, and beside onnxruntime's `quantize_static`.

    python benchmarks/quantize_cost.py MODEL.onnx IMAGES --preprocess lite [--num-images 128] [--repeats 3]
    python benchmarks/quantize_cost.py MODEL.onnx IMAGES --preprocess lite --ours-only    # mbdeploy alone

CPU time and peak memory of whole fresh processes. IMAGES is anything that `mbdeploy quantize --calibration` takes.
Both tools get the same file, the same images through the same preprocessing, one thread. They and the methods take
turns, and each figure is the median over repeats; `over_minmax` is a method's over that of the same tool's minmax.
(The peer keeps all activations for percentile and entropy: gigabytes for 128 images.)
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

#: Ours and the peer's; it has no mse, so that is measured beside its percentile.
METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy", "mse": "Percentile"}
OURS, PEER = "mbdeploy", "quantize_static"


def quantize_with_ort(arguments: argparse.Namespace, output: Path) -> None:
    """The peer, in this process: `quantize_static` at its documented per-channel U8S8 QDQ setting."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    from mbdeploy import data

    graph_input = onnx.load(arguments.model).graph.input[0]
    size = graph_input.type.tensor_type.shape.dim[2].dim_value
    images = data.open_dataset(arguments.images, split="calibrate", limit=arguments.num_images)
    preprocess = data.resolve_preprocess(arguments.preprocess, size=size, channels=3)

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = data.load_batches(images, preprocess, batch_size=1)

        def get_next(self) -> dict[str, object] | None:
            batch = next(self.batches, None)
            return None if batch is None else {graph_input.name: batch.inputs}

    quantize_static(
        arguments.model,
        str(output),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[METHODS[arguments.method[0]]],
    )


def measure_process(argv: list[str]) -> tuple[float, int]:
    """CPU seconds (user and system) of a command and its children, and the peak resident bytes of the largest.

    A small wrapper starts it and adds up: a process's peak begins at the size of the one that forked it.
    """
    wrapper = (
        "import json, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
        "u = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(json.dumps([u.ru_utime + u.ru_stime, u.ru_maxrss * 1024]))\n"
    )
    answer = subprocess.run([sys.executable, "-c", wrapper, *argv], check=True, capture_output=True, text=True)
    seconds, peak = json.loads(answer.stdout)
    return seconds, peak


def summarise(taken: dict[tuple[str, str], list[tuple[float, int]]]) -> dict[str, dict[str, dict[str, float]]]:
    """Medians by method and tool, from seconds and bytes of each run; ratios to the peer, and to the tool's minmax."""
    medians = {
        key: {
            "cpu_s": statistics.median(seconds for seconds, _ in runs),
            "peak_mb": statistics.median(peak for _, peak in runs) / 1e6,
        }
        for key, runs in taken.items()
    }
    table: dict[str, dict[str, dict[str, float]]] = {}
    for (method, tool), found in medians.items():
        row = table.setdefault(method, {})
        row[tool] = {"cpu_s": round(found["cpu_s"], 2), "peak_mb": round(found["peak_mb"])}
        if method != "minmax" and ("minmax", tool) in medians:
            row[f"{tool} over_minmax"] = _divide(found, medians["minmax", tool])
        if tool == OURS and (method, PEER) in medians:
            row["ratio"] = _divide(found, medians[method, PEER])
    return table


def _divide(found: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    return {key: round(found[key] / base[key], 3) for key in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("images")
    parser.add_argument("--preprocess", required=True)
    parser.add_argument("--num-images", type=int, default=128)
    parser.add_argument("--method", choices=METHODS, nargs="+", default=list(METHODS))
    parser.add_argument("--recipe", default="portable", help="accurate does more than quantize_static")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ours-only", action="store_true", help="for the growth of memory with the number of images")
    parser.add_argument("--peer-output", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peer_output:
        quantize_with_ort(arguments, Path(arguments.peer_output))
        return
    taken: dict[tuple[str, str], list[tuple[float, int]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.repeats):
            for method in arguments.method:
                for tool, argv in list_commands(arguments, method, folder).items():
                    taken.setdefault((method, tool), []).append(measure_process(argv))
    settings = {key: getattr(arguments, key) for key in ("recipe", "num_images", "repeats")}
    print(json.dumps({"model": Path(arguments.model).name, **settings, "methods": summarise(taken)}, indent=1))


def list_commands(arguments: argparse.Namespace, method: str, folder: str) -> dict[str, list[str]]:
    """The command of each tool that is to be measured."""
    common = ["--preprocess", arguments.preprocess]
    ours = [sys.executable, "-m", "mbdeploy.cli", "quantize", arguments.model, *common]
    ours += ["--calibration", arguments.images, "--num-calibration-samples", str(arguments.num_images)]
    ours += ["--recipe", arguments.recipe, "--calibration-method", method, "-o", f"{folder}/ours.onnx"]
    peer = [sys.executable, __file__, arguments.model, arguments.images, *common, "--method", method]
    peer += ["--num-images", str(arguments.num_images), "--peer-output", f"{folder}/peer.onnx"]
    return {OURS: ours} if arguments.ours_only else {PEER: peer, OURS: ours}


if __name__ == "__main__":
    main()
