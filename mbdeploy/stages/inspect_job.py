"""The inspect stage's child: reads the file, and does whatever runs ONNX's native shape inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact, model_file
from mbdeploy.costs.inspection import inspect_model
from mbdeploy.isolate import Progress
from mbdeploy.results import LayerRecord, QuantizeRecord


def inspect_file(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Inspect ``request["model"]``; the answer holds the report and the name of the card it says it is from."""
    path = Path(request["model"])
    model = model_file.load_model(path)
    reference = model_file.describe_model(path)
    report = inspect_model(
        model,
        name=path.name,
        sha256=reference.sha256,
        size_bytes=reference.size_bytes,
        input_shape=None if request["input_shape"] is None else tuple(request["input_shape"]),
        as_standard_conv=request["as_standard_conv"],
        ignore=request["ignore"],
        records=find_records(path, reference.sha256),
    )
    card = model_file.read_metadata(model).get("mbdeploy.card", "")
    return {"report": msgspec.to_builtins(report), "card": card}


def find_records(path: Path, sha256: str) -> dict[str, LayerRecord]:
    """What a quantization of this file left, by node: from its own sidecar, or of a file beside it made from it."""
    sidecars = [artifact.read_sidecar(path)]
    sidecars += [artifact.read_sidecar(other) for other in sorted(path.parent.glob("*.onnx")) if other != path]
    for place, sidecar in enumerate(sidecars):
        if sidecar is None or sidecar.provenance.stage != "quantize":
            continue
        if sidecar.sha256 == sha256 if place == 0 else sidecar.provenance.parents.get("model") == sha256:
            record = msgspec.json.decode(sidecar.record, type=QuantizeRecord)
            return {layer.node: layer for layer in record.layers}
    return {}
