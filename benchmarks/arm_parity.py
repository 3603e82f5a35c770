"""The same files on x86 and on emulated ARM CPUs: FP32, our INT8 file, and `quantize_static`'s per-channel U8S8 file.

    mbdeploy targets setup qemu
    python benchmarks/arm_parity.py MODEL... --images IMAGES [--preprocess lite] [--num-images 16] \\
        [--x86 cpu@local --x86 cpu@qemu:haswell] [--arm arm@qemu:cortex-a53 --arm arm@qemu:cortex-a76]

MODEL is a card, which is exported and simplified, or a simplified float ONNX file; `--preprocess` is for files that do
not say how images become input. Both INT8 files are calibrated on the same 128 images (the card's, else
`--calibration`). All files of a model run over all images in one process a CPU. SQNR is against FP32 on the first x86;
`differ` is the share of output elements that are not the same number on both, `equal_images` the share of images
without such an element. The bar: FP32 within 1e-4, SQNR of the INT8 file within 0.2 dB of x86's, the same first class
for 99.5 % of images. An x86 CPU with VNNI answers INT8 as ARM does, so an emulated one without it (Haswell) is compared
too: run on a machine without VNNI, `--x86 cpu` is enough.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

import mbdeploy
from mbdeploy import data
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.stages.subject import plan_session, read_subject
from mbdeploy.targets import Job, open_target, parse_provider

BARS = {"fp32_max_abs": 1e-4, "int8_sqnr_gap_db": 0.2, "int8_top1_agreement": 0.995}
Outputs = Mapping[str, NDArray[Any]]


def make_files(word: str, arguments: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """The float file of a model and its two INT8 files, by name."""
    calibration: dict[str, Any] = {"calibration": arguments.calibration, "preprocess": arguments.preprocess}
    model = Path(word)
    if not model.is_file():
        model = folder / "simplified.onnx"
        mbdeploy.export(word, output=folder / "fp32.onnx")
        mbdeploy.simplify(folder / "fp32.onnx", output=model)
        calibration["calibration"] = mbdeploy.load_card(word).quantization.calibration or arguments.calibration
    files = {"fp32": model, "mbdeploy": folder / "mbdeploy.onnx", "quantize_static": folder / "quantize_static.onnx"}
    mbdeploy.quantize(model, output=files["mbdeploy"], recipe=arguments.recipe, **calibration)
    quantize_with_ort(
        model, files["quantize_static"], load_images(model, arguments, calibration["calibration"], "calibrate", 128)
    )
    return files


def quantize_with_ort(model: Path, output: Path, images: NDArray[np.float32]) -> None:
    """The peer: `quantize_static` at its documented per-channel U8S8 QDQ setting."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    name = read_subject(model).signature.input

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(images)

        def get_next(self) -> dict[str, object] | None:
            row = next(self.rows, None)
            return None if row is None else {name: row[None]}

    quantize_static(
        str(model),
        str(output),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def load_images(model: Path, arguments: argparse.Namespace, source: str, split: str, limit: int) -> NDArray[np.float32]:
    """The first images of a data set as this model's input."""
    subject = read_subject(model)
    preprocess = subject.preprocess
    if preprocess is None or arguments.preprocess is not None:
        channels, height, _ = subject.signature.image_shape or (3, 224, 224)
        preprocess = data.resolve_preprocess(arguments.preprocess, size=height, channels=channels)
    dataset = data.open_dataset(source, split=split, limit=limit)
    return np.concatenate([batch.inputs for batch in data.load_batches(dataset, preprocess, batch_size=1)])


def run_files(files: Mapping[str, Path], images: NDArray[np.float32], word: str) -> Outputs:
    """The first output of every file for all images, on one provider."""
    provider = parse_provider(word)
    sessions = tuple(plan_session(read_subject(path), provider) for path in files.values())
    job = Job(kind="infer", sessions=sessions, inputs=images, batch_size=1)
    answer = open_target(provider).run(job)
    return {name: np.array(ran.outputs[0]) for name, ran in zip(files, answer.sessions, strict=True)}


def compare_machines(fp32: NDArray[Any], x86: Outputs, arm: Outputs) -> dict[str, dict[str, float | None]]:
    """For each file that ran on both: how far ARM is from x86, and how far either is from FP32."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, output in x86.items():
        between = compare_outputs(output, arm[name])
        rows[name] = {
            "max_abs": between.max_abs,
            "top1_agreement": between.top1_agreement,
            "differ": float(np.mean(output != arm[name])),
            "equal_images": float(np.mean([np.array_equal(*pair) for pair in zip(output, arm[name], strict=True)])),
        }
        if name != "fp32":
            here, there = compare_outputs(fp32, output), compare_outputs(fp32, arm[name])
            rows[name].update(sqnr_x86_db=here.sqnr_db, sqnr_arm_db=there.sqnr_db)
    return rows


def judge_rows(rows: Mapping[str, Mapping[str, float | None]]) -> bool:
    """Whether a CPU meets the bar with our file."""
    fp32, ours = rows.get("fp32", {}), rows["mbdeploy"]
    gap_db = abs((ours["sqnr_arm_db"] or 0) - (ours["sqnr_x86_db"] or 0))
    return (
        (fp32.get("max_abs") or 0) <= BARS["fp32_max_abs"]
        and gap_db <= BARS["int8_sqnr_gap_db"]
        and (ours["top1_agreement"] or 0) >= BARS["int8_top1_agreement"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--images", default="photos")
    parser.add_argument("--preprocess")
    parser.add_argument("--calibration", default="photos")
    parser.add_argument("--recipe", default="accurate")
    parser.add_argument("--num-images", type=int, default=16)
    parser.add_argument("--x86", action="append", metavar="PROVIDER")
    parser.add_argument("--arm", action="append", metavar="PROVIDER")
    arguments = parser.parse_args()
    answer: dict[str, Any] = {"n": arguments.num_images, "recipe": arguments.recipe, "bars": BARS, "models": {}}
    x86_words = arguments.x86 or ["cpu@local", "cpu@qemu:haswell"]
    arm_words = arguments.arm or ["arm@qemu:cortex-a53", "arm@qemu:cortex-a76"]
    for word in arguments.models:
        with tempfile.TemporaryDirectory() as name:
            files = make_files(word, arguments, Path(name))
            images = load_images(files["fp32"], arguments, arguments.images, "check", arguments.num_images)
            # Float needs no second x86: it is slow to emulate, and nothing in it clips.
            int8 = {key: path for key, path in files.items() if key != "fp32"}
            outputs = {
                name: run_files(int8 if name in x86_words[1:] else files, images, name)
                for name in (*x86_words, *arm_words)
            }
        fp32 = outputs[x86_words[0]]["fp32"]
        rows = {
            arm: {x86: compare_machines(fp32, outputs[x86], outputs[arm]) for x86 in x86_words} for arm in arm_words
        }
        passed = all(judge_rows(row) for by_x86 in rows.values() for row in by_x86.values())
        answer["models"][Path(word).stem] = {"meets_bar": passed, **rows}
    print(msgspec.json.format(msgspec.json.encode(answer), indent=1).decode())


if __name__ == "__main__":
    main()
