"""ONNX Runtime and OpenVINO side by side: the same files on the same images, what each answers and how long it takes.

    python benchmarks/runtimes.py FLOAT.onnx IMAGES INT8.onnx ... [--preprocess tf] [--num-images 24] [--isa AVX2]
    python benchmarks/runtimes.py --cards CARD ... [--recipe portable] [--num-images 24] [--isa AVX2]

SQNR is against FLOAT.onnx on ONNX Runtime; "exact" is the same INT8 file on ONNX Runtime with graph optimisation off,
and "gap" how far the executed outputs lie below it. Ratios are of CPU time, one thread, batch 1, paired and interleaved
in one process: over FLOAT.onnx on ONNX Runtime, and over it on OpenVINO. `--isa AVX2` runs OpenVINO once more with
oneDNN held to that instruction set, where int8 products clip as on a CPU without VNNI: parity and OpenVINO's own ratio
only. A card is exported, simplified and quantized first, and answers on its own images. Needs the extra `openvino`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

import mbdeploy
from mbdeploy.data import load_arrays, open_dataset
from mbdeploy.estimate import estimate_ratio
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import encode_result
from mbdeploy.stages.subject import Subject, choose_preprocess, plan_session, read_subjects
from mbdeploy.targets import Answer, Job, Session, Target, open_target, parse_provider

RUNTIMES = ("cpu", "openvino")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FLOAT.onnx IMAGES INT8.onnx", help="or --cards")
    parser.add_argument("--cards", nargs="+", default=[])
    parser.add_argument("--recipe", default="portable", help="of the cards' INT8 files")
    parser.add_argument("--preprocess")
    parser.add_argument("--num-images", type=int, default=24)
    parser.add_argument("--min-duration", type=float, default=2.0)
    parser.add_argument("--isa", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.cards:
        for card in arguments.cards:
            with tempfile.TemporaryDirectory() as folder:
                files = make_files(card, Path(folder), arguments.recipe)
                images = mbdeploy.load_card(card).quantization.calibration
                show({"card": card, **compare_runtimes(files, images, arguments)})
    else:
        model, images, *int8 = arguments.files
        show(compare_runtimes([Path(model), *map(Path, int8)], images, arguments))


def make_files(card: str, folder: Path, recipe: str) -> list[Path]:
    """The simplified and the INT8 file of a card."""
    raw, simplified, int8 = (folder / f"{name}.onnx" for name in ("fp32", "simplified", "int8"))
    mbdeploy.export(card, output=raw)
    mbdeploy.simplify(raw, output=simplified)
    mbdeploy.quantize(
        simplified, output=int8, recipe=recipe, calibration=mbdeploy.load_card(card).quantization.calibration
    )
    return [simplified, int8]


def compare_runtimes(files: list[Path], source: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One row a file and runtime; the first file is the float one."""
    subjects = read_subjects(files)
    dataset = open_dataset(source, split="check")
    how = choose_preprocess(dataset, subjects, arguments.preprocess)
    images = load_arrays(dataset, how, limit=arguments.num_images)
    here = open_target(parse_provider("cpu"))
    exact = [plan_session(subject, parse_provider("cpu"), mode="exact") for subject in subjects]
    ideal = [ran.outputs[0] for ran in here.run(Job(kind="infer", sessions=tuple(exact), inputs=images)).sessions]
    rows = []
    for isa in ("", *arguments.isa):
        options = {"ONEDNN_MAX_CPU_ISA": isa} if isa else {}
        words = ("openvino",) if isa else RUNTIMES
        sessions = [
            plan_session(subject, parse_provider(word), provider_options=options)
            for word in words
            for subject in subjects
        ]
        answer = here.run(Job(kind="infer", sessions=tuple(sessions), inputs=images))
        times = measure(here, sessions, images, arguments.min_duration)
        for number, session in enumerate(sessions):
            place = number % len(subjects)
            rows.append(
                {
                    "file": subjects[place].ref.name,
                    "on": ("openvino" if session.runtime == "openvino" else "onnxruntime") + f" with {isa}" * bool(isa),
                    **describe_parity(subjects[place], ideal[0], ideal[place], answer.sessions[number].outputs[0]),
                    **describe_times(times, sessions, number, len(subjects)),
                    "control": describe_ratio(times, 0, len(sessions)),
                    "operators": answer.sessions[number].placement.operators,
                }
            )
    report: dict[str, Any] = {"n": len(images), "rows": rows, "cpu": answer.host.cpu, "isa": answer.host.isa}
    return {**report, "versions": answer.host.versions}


def show(report: dict[str, Any]) -> None:
    print(msgspec.json.format(encode_result(report), indent=1).decode(), flush=True)


def measure(target: Target, sessions: list[Session], images: np.ndarray, min_duration: float) -> Answer:
    """All sessions by turns, and the first one again as control."""
    job = Job(kind="bench", sessions=(*sessions, sessions[0]), inputs=images, batch_size=1, min_duration_s=min_duration)
    return target.run(job)


def describe_parity(subject: Subject, reference: np.ndarray, exact: np.ndarray, executed: np.ndarray) -> dict[str, Any]:
    """How far the executed and the exact outputs are from the float file's, and from each other."""
    found, ideal = compare_outputs(reference, executed), compare_outputs(reference, exact)
    apart = compare_outputs(exact, executed, subject.output_scales[0])
    return {
        "sqnr_db": found.sqnr_db,
        "exact_db": ideal.sqnr_db,
        "gap_db": ideal.sqnr_db - found.sqnr_db if ideal.sqnr_db != found.sqnr_db else 0.0,
        "top1_agreement": found.top1_agreement,
        "max_abs": found.max_abs,
        "apart_db": apart.sqnr_db,
    }


def describe_times(answer: Answer, sessions: list[Session], number: int, count: int) -> dict[str, Any]:
    """CPU time over the float file on ONNX Runtime, where it ran, and on OpenVINO."""
    floats = {session.runtime: index for index, session in enumerate(sessions) if index % count == 0}
    return {f"over_{name}_float": describe_ratio(answer, index, number) for name, index in floats.items()}


def describe_ratio(answer: Answer, base: int, candidate: int) -> list[float]:
    """Median of pair ratios of CPU time, with its 95 % interval."""
    ratio = estimate_ratio(answer.sessions[base].cpu_ns, answer.sessions[candidate].cpu_ns)
    return [round(value, 4) for value in (ratio.value, ratio.low, ratio.high)]


if __name__ == "__main__":
    main()
