"""The quantize stage: a float ONNX file and calibration images in, one INT8 file with Q/DQ pairs out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy import artifact, data, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.errors import DataError, ModelError, UsageError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.records import QuantizeRecord
from mbdeploy.watch import Limits

_QUANTIZE_STEP = "mbdeploy.stages.quantize_job:quantize_model"


def quantize(
    model: Path,
    *,
    output: Path,
    calibration: str | None = None,
    ranges: Path | None = None,
    recipe: str = "accurate",
    without: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    calibration_method: str | None = None,
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    kit: Path | None = None,
    threads: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> QuantizeRecord:
    """Quantize a float model statically to INT8 and write it, with its sidecar, to ``output``.

    ``calibration`` is a folder, manifest, CSV or npz. ``ranges`` takes the activation ranges from a file instead: what
    ``calibrate`` wrote, or ONNX Runtime's calibration cache (.json); then only ``accurate`` needs images.
    ``calibration_method`` is the recipe's own where none is given, and ``without`` leaves out techniques of the recipe
    (``refit``, ``feedback``, ``bias``). ``keep_float`` names nodes, or patterns of names, that stay in float with
    their activation functions. ``preprocess`` (a preset's name or a TOML file) overrides what the file says of
    itself. ``kit`` is a folder that takes what mixed files are made from (:mod:`mbdeploy.mixing.kit`). The same model,
    images and options give the same bytes, whatever the order of the images and the number of threads.

    Raises:
        UsageError: unknown recipe, technique, method or node. ModelError, DataError: unusable input. OutputError:
        nowhere to write. StepError: the native step crashed, hung or ran out of memory.
    """
    provenance = plan(
        model,
        calibration=calibration,
        ranges=ranges,
        recipe=recipe,
        without=without,
        keep_float=keep_float,
        calibration_method=calibration_method,
        num_calibration_samples=num_calibration_samples,
        preprocess=preprocess,
        seed=seed,
    )
    with artifact.writing(output) as temporary, artifact.lending_folder(output) as scratch:
        request = {
            "model": str(model),
            "output": str(temporary),
            "calibration": calibration,
            "ranges": str(ranges) if ranges is not None else "",
            "recipe": recipe,
            "without": list(without),
            "keep_float": list(keep_float),
            "kit": None if kit is None else str(kit),
            "method": calibration_method,
            "samples": num_calibration_samples,
            "preprocess": preprocess,
            "threads": threads,
            "scratch": str(scratch),
            "seed": seed,
            "provenance": msgspec.to_builtins(provenance),
        }
        outcome = run_step(_QUANTIZE_STEP, request, limits=limits, on_progress=on_progress)
        made = demand_value(
            outcome,
            where=model,
            expected="quantization to run to its end",
            todo="check that the model runs (`mbdeploy verify`) and that the limits suffice",
        )
    usage = {"cpu_s": round(outcome.cpu_s, 2), "peak_bytes": outcome.peak_bytes}
    record = msgspec.convert({**made, **usage}, QuantizeRecord)
    artifact.write_sidecar(output, provenance, record)
    return record


def plan(
    model: Path,
    *,
    calibration: str | None = None,
    ranges: Path | None = None,
    recipe: str = "accurate",
    without: Sequence[str] = (),
    keep_float: Sequence[str] = (),
    calibration_method: str | None = None,
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    seed: int = 0,
) -> Provenance:
    """What ``quantize`` would do with these inputs: the basis of the freshness key."""
    if not model.is_file():
        raise ModelError(where=model, expected="an ONNX model", found="no such file", todo="check the path")
    if calibration is None and ranges is None:
        raise UsageError(
            expected="calibration images, or ranges",
            found="neither",
            todo="give --calibration (a folder, manifest, CSV or .npz), or --ranges",
        )
    parents = {"model": model_file.digest_model(model)}
    samples = 0
    if calibration is not None:
        images = data.open_dataset(calibration, split="calibrate", limit=num_calibration_samples, seed=seed)
        samples, parents["calibration"] = len(images), images.digest()
    if ranges is not None:
        if not ranges.is_file():
            raise DataError(where=ranges, expected="a calibration file", found="no such file", todo="check the path")
        parents["ranges"] = artifact.digest_file(ranges)
    return Provenance(
        stage="quantize",
        params={
            "recipe": recipe,
            "without": sorted(set(without)),
            "keep_float": sorted(set(keep_float)),
            "method": calibration_method,
            "samples": samples,
            "preprocess": preprocess,
            "seed": seed,
        },
        parents=parents,
        tools=artifact.read_tools("onnx", "onnxruntime", "numpy", "pillow"),
    )
