"""INT8 files of other tools: audited, repaired without data, and run on a CPU without VNNI.

    python benchmarks/audit.py FLOAT.onnx LABELS.csv [--preprocess tf] [--num-images 16] [--num-calibration 64] \\
        [--activation QUInt8] [--file INT8.onnx ...] [--provider cpu --provider cpu@qemu:haswell]

FLOAT.onnx is a simplified float model. Files made from it are given, such as those that `quantizers.py --keep` leaves,
or are four of `quantize_static`, per channel (U8S8 and S8S8, Q/DQ and QOperator). Each that clips is repaired from its
own integers and from the float file. SQNR is against FP32, on the same images everywhere, none of which calibrated.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import onnx
from int8 import write_remaining

import mbdeploy
from mbdeploy import data, model_file
from mbdeploy.errors import ModelError


def open_calibration(arguments: argparse.Namespace) -> data.Dataset:
    """The images that calibrate."""
    return data.open_dataset(str(arguments.labels), split="calibrate", limit=arguments.num_calibration)


def quantize_statically(arguments: argparse.Namespace, activation: str, form: str, output: Path) -> None:
    """The peer: `quantize_static`, per channel, at its other defaults."""
    from onnxruntime import quantization

    model = onnx.load(arguments.model)
    signature = model_file.read_signature(model)
    images = open_calibration(arguments)
    preprocess = model_file.read_preprocess(model)
    if arguments.preprocess:
        preprocess = data.resolve_preprocess(arguments.preprocess, size=signature.shape[2] or 224, channels=3)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches = data.load_batches(images, preprocess, batch_size=1)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {signature.input: batch.inputs}

    quantization.quantize_static(
        str(arguments.model),
        str(output),
        Reader(),
        quant_format=quantization.QuantFormat[form],
        per_channel=True,
        activation_type=quantization.QuantType[activation],
        weight_type=quantization.QuantType.QInt8,
    )


def examine(arguments: argparse.Namespace, path: Path, rest: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """One file's row, with its repairs if it clips, and the hosts that ran it."""
    report = mbdeploy.audit(
        path,
        data=str(rest),
        preprocess=arguments.preprocess,
        num_samples=arguments.num_images,
        against=arguments.model,
        providers=arguments.provider,
    )
    layers = report.examined.layers
    repairs = (
        [describe(arguments, path, rest, against) for against in (False, True)] if report.examined.clipping else []
    )
    row = {
        "verdict": report.verdict,
        "layers_that_clip": sum(bool(layer.clipped) for layer in layers),
        "layers_in_float": sum(layer.fused is False for layer in layers),
        "findings": {item.rule: item.summary for item in report.examined.findings},
        "sqnr_db": list_runs(report, "input"),
        "repaired": repairs,
    }
    return row, {word: [host.emulator or host.cpu, *host.isa] for word, host in report.hosts.items()}


def describe(arguments: argparse.Namespace, path: Path, rest: Path, against: bool) -> dict[str, Any]:
    """One file before and after its repair, weights from itself or from the float file."""
    output = path.with_name(f"repaired_{path.name}")
    common: dict[str, Any] = {
        "data": str(rest),
        "preprocess": arguments.preprocess,
        "num_samples": arguments.num_images,
        "against": arguments.model,
    }
    if against:
        try:
            report = mbdeploy.audit(path, repair=True, output=output, providers=arguments.provider, **common)
        except ModelError as error:  # a tool that changes float weights before it rounds them
            return {"weights_from": "float file", "refused": str(error)}
    else:
        mbdeploy.audit(path, repair=True, output=output)
        report = mbdeploy.audit(output, providers=arguments.provider, **common)
    shown = report.repaired if report.repaired is not None else report.examined
    return {
        "weights_from": "float file" if against else "own integers",
        "clipping_layers_left": shown.clipping,
        "errors_left": [finding.rule for finding in shown.findings if finding.severity == "error"],
        "sqnr_db": list_runs(report, "repaired" if against else "input"),
    }


def list_runs(report: Any, file: str) -> dict[str, Any]:
    """By provider: executed and exact against FP32, and executed against the same without saturation."""
    return {
        run.provider: {
            "executed": round(run.executed.sqnr_db, 2),
            "exact": round(run.exact.sqnr_db, 2),
            "clipping": "none" if run.saturation.max_abs == 0 else round(run.saturation.sqnr_db, 2),
            "top1_agreement": run.executed.top1_agreement,
        }
        for run in report.runs
        if run.file == file
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--preprocess")
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--num-calibration", type=int, default=64)
    parser.add_argument("--activation", action="append", choices=["QUInt8", "QInt8"], help="S8 takes long to emulate")
    parser.add_argument("--file", type=Path, action="append", default=[], help="an INT8 file that another tool made")
    parser.add_argument("--provider", action="append")
    arguments = parser.parse_args()
    arguments.provider = arguments.provider or ["cpu", "cpu@qemu:haswell"]
    with tempfile.TemporaryDirectory() as name:
        rest = Path(name) / "rest.csv"
        write_remaining(arguments.labels, {Path(item.path).name for item in open_calibration(arguments).samples}, rest)
        files, made = {path.stem: path for path in arguments.file}, Path(name) / "made"
        made.mkdir()
        for activation in () if files else arguments.activation or ("QUInt8", "QInt8"):
            for form in ("QDQ", "QOperator"):
                path = made / f"{activation}_{form}.onnx"
                quantize_statically(arguments, activation, form, path)
                files[f"{activation} per channel, {form}"] = path
        found = {words: examine(arguments, Path(shutil.copy(path, name)), rest) for words, path in files.items()}
    rows = [{"file": words, **row} for words, (row, _) in found.items()]
    hosts = next(iter(found.values()))[1]
    answer = {"model": arguments.model.name, "n": arguments.num_images, "calibration": arguments.num_calibration}
    print(msgspec.json.format(msgspec.json.encode({**answer, "rows": rows, "hosts": hosts}), indent=1).decode())


if __name__ == "__main__":
    main()
