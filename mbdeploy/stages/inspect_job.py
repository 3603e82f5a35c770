"""The inspect stage's child: reads the file, and does whatever runs ONNX's native shape inference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx

from mbdeploy import artifact, model_file, preflight
from mbdeploy.bounds import current_bounds
from mbdeploy.costs.inspection import inspect_model
from mbdeploy.costs.wire import RawData, read_light
from mbdeploy.isolate import Progress
from mbdeploy.records import LayerRecord, QuantizeRecord

#: Files above this are walked in place instead of parsed whole.
_LARGE_BYTES = 32 << 20


def inspect_file(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Inspect ``request["model"]``; the answer holds the report and the name of the card it says it is from."""
    path = Path(request["model"])
    model, raw = _read_model(path)
    report = inspect_model(
        model,
        name=path.name,
        size_bytes=path.stat().st_size,
        input_shape=None if request["input_shape"] is None else tuple(request["input_shape"]),
        as_standard_conv=request["as_standard_conv"],
        ignore=request["ignore"],
        records=find_records(path),
        raw=raw,
    )
    card = model_file.read_metadata(model).get("mbdeploy.card", "")
    return {"report": msgspec.to_builtins(report), "card": card}


def _read_model(path: Path) -> tuple[onnx.ModelProto, RawData]:
    if preflight.check_file(path, current_bounds()) <= _LARGE_BYTES:
        return model_file.load_model(path), {}
    try:
        model, raw = read_light(path)
    except (OSError, ValueError):
        return model_file.load_model(path), {}  # what is wrong with it, the loader says better
    preflight.check_graph(model, path, light=True)
    return model, raw


def find_records(path: Path) -> dict[str, LayerRecord]:
    """What a quantization of this file left, by node: from its own sidecar, or of a file beside it made from it."""
    others = (other for other in sorted(path.parent.glob("*.onnx")) if other != path)
    sidecars = [(other == path, artifact.read_sidecar(other)) for other in (path, *others)]
    left = [(own, sidecar) for own, sidecar in sidecars if sidecar and sidecar.provenance.stage == "quantize"]
    sha256 = model_file.digest_model(path) if left else ""
    for own, sidecar in left:
        if sha256 == (sidecar.sha256 if own else sidecar.provenance.parents.get("model")):
            record = msgspec.json.decode(sidecar.record, type=QuantizeRecord)
            return {layer.node: layer for layer in record.layers}
    return {}
