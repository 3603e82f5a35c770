"""Calls that no result holds: of files whose sidecars say how they were made, and of results of older versions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.calls import Call
from mbdeploy.mixing.report import MixReport
from mbdeploy.records import Adequacy, QuantizeRecord
from mbdeploy.results import BenchRun, EvalReport, ParityReport
from mbdeploy.stages.bench_explain import ExplainResult
from mbdeploy.stages.matrix import MatrixReport
from mbdeploy.stages.reporting.reading import CALIBRATION, Saved
from mbdeploy.stages.subject import read_word


def recall_quantize(saved: Saved, made: QuantizeRecord) -> Call:
    """How the INT8 file was made, as its sidecar says: nothing that its bytes depend on is missing there."""
    provenance = saved.sidecars["int8"].provenance
    told = provenance.params
    options: dict[str, Any] = {
        "recipe": told.get("recipe", made.recipe),
        "without": told.get("without"),
        "keep_float": told.get("keep_float"),
        "ranges": made.ranges or None,
        "calibration_method": told.get("method", None if made.ranges else made.method),
        "preprocess": told.get("preprocess"),
        "seed": told.get("seed", 0),
    }
    if made.samples:
        options |= {"calibration": made.data, "num_calibration_samples": made.samples}
    return Call(command="quantize", arguments=(_find_model(saved, provenance.parents),), options=options)


def recall_calibration(saved: Saved) -> Call:
    """How activations were observed. Before their sidecar named the images, they have a name only if they are those
    that the INT8 file was calibrated with."""
    sidecar = artifact.read_sidecar(saved.folder / CALIBRATION)
    parents = sidecar.provenance.parents if sidecar else {}
    if sidecar is None:
        return Call(command="calibrate", arguments=(_find_model(saved, parents),), options={"calibration": "DATA"})
    kind: Any = Adequacy | None
    seen = artifact.decode_saved(saved.folder / CALIBRATION, sidecar.record, kind)
    made, told = saved.quantize, sidecar.provenance.params
    same = made is not None and made.data_digest == parents.get("calibration")
    options = {
        "calibration": (seen and seen.data) or (made.data if made is not None and same else "DATA"),
        "num_calibration_samples": told["samples"],
        "calibration_method": told["method"],
        "preprocess": told.get("preprocess"),
        "seed": told.get("seed", 0),
    }
    return Call(command="calibrate", arguments=(_find_model(saved, parents),), options=options)


def recall_parity(found: ParityReport) -> Call:
    """What rows say of how they came to be."""
    options = {"providers": _name_providers(row.provider for row in found.rows), "layers": bool(found.layers)}
    models = dict.fromkeys(row.model.path for row in found.rows)
    return Call(command="verify", arguments=tuple(models), options=options)


def recall_matrix(folder: Path, found: MatrixReport) -> Call:
    """What cells say of how they came to be."""
    models = dict.fromkeys(str(folder / f"{row.model}.onnx") for row in found.rows)
    return Call(command="verify", arguments=tuple(models), options={"matrix": True, "providers": list(found.hosts)})


def recall_bench(runs: Sequence[BenchRun]) -> Call:
    """What runs of one call say of it: they differ in their provider, threads and batch only."""
    first = runs[0]
    options: dict[str, Any] = {
        "providers": _name_providers(run.provider for run in runs),
        "threads": list(dict.fromkeys(run.threads for run in runs)),
        "batch_size": list(dict.fromkeys(run.batch_size for run in runs)),
        "warmup": first.warmup,
        "min_duration": first.min_duration_s,
        "processes": first.processes,
        "inputs": first.inputs,
        "tolerance": first.tolerance,
        "seed": first.seed,
        "require_placement": list(first.require_placement),
    }
    if first.processes > 1:
        options |= {"max_duration": first.max_duration_s, "cool_down": first.cool_down_s}
    return Call(command="bench", arguments=tuple(series.model.path for series in first.series), options=options)


def recall_explanation(found: ExplainResult) -> Call:
    """What a profile says of how it came to be."""
    options = {
        "explain": True,
        "provider": found.provider,
        "threads": found.threads,
        "batch_size": found.batch_size,
        "inputs": found.inputs,
    }
    return Call(command="bench", arguments=tuple(model.model.path for model in found.models), options=options)


def recall_evaluation(found: EvalReport) -> Call:
    """What predictions say of how they came to be."""
    first = found.models[0]
    options = {"data": found.data, "limit": len(first.predictions), "provider": read_word(first.provider)}
    return Call(command="evaluate", arguments=tuple(model.model.path for model in found.models), options=options)


def recall_search(saved: Saved, found: MixReport) -> Call:
    """What a search for INT8 within goals says of itself; it calibrated as the INT8 file beside it, if there is one."""
    made = saved.quantize
    goals = {name: value for name, value in msgspec.structs.asdict(found.goals).items() if value is not None}
    options = {
        **goals,
        "calibration": made.data if made is not None and made.samples else "DATA",
        "search_data": found.data,
        "num_search_samples": found.images,
        "provider": found.provider,
        "threads": found.threads,
    }
    return Call(command="quantize", arguments=(found.model.path,), options=options)


def _find_model(saved: Saved, parents: dict[str, str]) -> str:
    """The file of the folder that this was made from; simplified.onnx if none of them is."""
    stems = [stem for stem, sidecar in saved.sidecars.items() if sidecar.sha256 == parents.get("model")]
    return str(saved.folder / f"{stems[-1] if stems else 'simplified'}.onnx")


def _name_providers(labels: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(read_word, labels)))
