"""What ``simplify`` runs in children: onnxsim; then the rewrites, and the comparison of outputs that decides."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from mbdeploy.errors import DataError, ModelError
from mbdeploy.golden import find_degenerate, read_golden
from mbdeploy.isolate import Progress
from mbdeploy.model_file import (
    Signature,
    copy_model,
    load_whole,
    read_metadata,
    read_opset,
    read_signature,
    save_model,
    write_metadata,
)
from mbdeploy.rewrites import rewrite_model
from mbdeploy.rewrites.batch import fix_batch, free_batch, merge_shapes
from mbdeploy.rewrites.image import fix_image

#: Largest accepted difference, times the largest magnitude of the output where that is above 1.
_TOLERANCE = 1e-4
_BATCHES = (1, 3)
#: Sizes to try where the file leaves height or width open: multiples of 32, as strided networks want.
_OPEN_SIZES = (224, 160)


def run_onnxsim(request: dict[str, Any], on_progress: Progress) -> None:
    """Simplify ``model`` once for each job, at its ``batch`` (None: as it is), into its ``output``.

    onnxsim's own verdict is dropped: 0.8.1 says ok to outputs that it has changed.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # onnxsim imports it, for 2 s, and can do without
    import onnxsim

    for job in request["jobs"]:
        model = load_whole(Path(request["model"]))
        if job["batch"] is not None:
            fix_batch(model, request["input"], job["batch"])
        simplified, _ = onnxsim.simplify(model)
        onnx.save(simplified, job["output"])


def fix_size(request: dict[str, Any], on_progress: Progress) -> None:
    """Give the image of ``model`` the size ``shape`` (C, H, W), into ``output``.

    Raises:
        UsageError: the file fixes another size.
    """
    model = load_whole(Path(request["model"]))
    channels, height, width = request["shape"]
    fix_image(model, request["input"], (channels, height, width), request["where"])
    save_model(model, Path(request["output"]))


def raise_opset(request: dict[str, Any], on_progress: Progress) -> None:
    """Convert ``model`` to ``opset`` by onnx's own converter, into ``output``."""
    from onnx import helper, version_converter

    source = load_whole(Path(request["model"]))
    result = version_converter.convert_version(source, request["opset"])
    result.ir_version = max(source.ir_version, helper.find_min_ir_version_for(result.opset_import, ignore_unknown=True))
    save_model(result, Path(request["output"]))


def finish_attempt(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Rewrite what onnxsim made (or else ``start``), write it, and compare its outputs with those of ``model``.

    ``start`` is the model itself, or that under another opset.

    The answer's ``wrong`` says how the outputs differ, or is empty; ``note`` says why the comparison is weak.

    Raises:
        ModelError: ONNX Runtime refuses the model itself, or its outputs are not finite.
        DataError: golden inputs that cannot be used, or do not fit the model.
    """
    source = load_whole(Path(request["model"]))
    inputs = _make_inputs(read_signature(source), request["golden"])
    expected = _run_source(request["model"], inputs)
    start = source if request["start"] == request["model"] else load_whole(Path(request["start"]))
    result, rewrites = _rewrite(start, request["candidates"], request["rewrites"])
    result.ir_version, result.producer_name = start.ir_version, source.producer_name
    del result.metadata_props[:]  # onnxsim leaves its own
    write_metadata(result, {**read_metadata(source), **request["metadata"]})
    save_model(result, Path(request["output"]))
    answer = _compare(expected, _run(request["output"], inputs))
    return {
        **answer,
        "note": _find_weakness(expected, inputs),
        "rewrites": rewrites,
        "operators_before": _count_operators(source),
        "operators_after": _count_operators(result),
        "opsets": [read_opset(source), read_opset(result)],
    }


def _rewrite(source: onnx.ModelProto, candidates: list[str], names: list[str]) -> tuple[onnx.ModelProto, list[Any]]:
    if not candidates and not names:
        return copy_model(source), []
    original = ir.from_proto(source)
    made = [ir.from_proto(onnx.load(path)) for path in candidates] or [ir.from_proto(source)]
    model = free_batch(made[0], made[1], original) if len(made) == 2 else made[0]
    rewrites = rewrite_model(model, names)
    common.ClearMetadataAndDocStringPass()(model)  # exporters write stack traces and paths of their machine there
    shapes = {value.name: value.shape for value in original.graph.outputs}
    for value in model.graph.outputs:
        value.shape = merge_shapes(shapes.get(value.name), value.shape)
    return ir.to_proto(model), msgspec.to_builtins(rewrites)


def _count_operators(model: onnx.ModelProto) -> dict[str, int]:
    return dict(sorted(Counter(node.op_type for node in model.graph.node).items()))


def _make_inputs(signature: Signature, golden: str | None) -> list[NDArray[np.float32]]:
    """One batch of images for each batch size: golden ones, or smooth noise of mean 0 and deviation about 1."""
    batches = _BATCHES if signature.batch is None else (signature.batch,)
    if golden is not None:
        images = read_golden(Path(golden)).input
        if any(size not in (None, given) for size, given in zip(signature.shape[1:], images.shape[1:], strict=True)):
            raise DataError(
                where=golden,
                expected=f"images of the model's shape {list(signature.shape[1:])}",
                found=f"{list(images.shape[1:])}",
                todo="give the golden inputs that belong to this model",
            )
        order = np.arange(sum(batches)) % len(images)  # where there are too few images, they repeat
        return [images[chosen] for chosen in np.split(order, np.cumsum(batches)[:-1])]
    made = []
    for batch, open_size in zip(batches, _OPEN_SIZES, strict=False):
        channels = signature.shape[1] or 3
        height, width = (size or open_size for size in signature.shape[2:])
        rng = np.random.default_rng(batch)
        patches = rng.standard_normal((batch, channels, 4, 4)).repeat(-(-height // 4), 2).repeat(-(-width // 4), 3)
        noise = rng.standard_normal((batch, channels, height, width))
        made.append((patches[:, :, :height, :width] + 0.3 * noise).astype(np.float32))
    return made


def _run_source(path: str, inputs: list[NDArray[np.float32]]) -> list[dict[str, NDArray[Any]]]:
    try:
        outputs = _run(path, inputs)
    except Exception as error:
        raise ModelError(
            where=path,
            expected="a model that ONNX Runtime can run",
            found=str(error).strip().splitlines()[0],
            todo="check how the file was made; ONNX Runtime cannot run it as it is",
        ) from error
    for name, output in ((name, output) for batch in outputs for name, output in batch.items()):
        if not np.isfinite(output).all():
            raise ModelError(
                where=path,
                expected="finite outputs",
                found=f"NaN or infinity in {name!r}",
                todo="check the weights, or give inputs that the model is made for with --golden",
            )
    return outputs


def _run(path: str, inputs: list[NDArray[np.float32]]) -> list[dict[str, NDArray[Any]]]:
    """The outputs by name, for each batch, of the graph as it is written: a fusion of the runtime cannot hide in it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = session.get_inputs()[0].name
    return [dict(zip(names, session.run(names, {feed: images}), strict=True)) for images in inputs]


def _compare(expected: list[dict[str, NDArray[Any]]], found: list[dict[str, NDArray[Any]]]) -> dict[str, Any]:
    largest = 0.0
    for want, got in zip(expected, found, strict=True):
        if list(want) != list(got):
            return {"wrong": f"outputs {list(got)} instead of {list(want)}", "max_abs": 0.0}
        for name, right in want.items():
            if right.shape != got[name].shape:
                return {"wrong": f"shape {got[name].shape} instead of {right.shape} in {name!r}", "max_abs": 0.0}
            difference = float(np.abs(right.astype(np.float64) - got[name]).max(initial=0.0))
            is_float = np.issubdtype(right.dtype, np.floating)
            bound = _TOLERANCE * max(1.0, float(np.abs(right).max(initial=0.0))) if is_float else 0.0
            if not difference <= bound:  # a NaN is not below any bound
                found_text = f"{name!r} is off by {difference:.3g} (at most {bound:.3g}) at batch {len(right)}"
                return {"wrong": found_text, "max_abs": difference}
            largest = max(largest, difference)
    return {"wrong": "", "max_abs": largest}


def _find_weakness(outputs: list[dict[str, NDArray[Any]]], inputs: list[NDArray[np.float32]]) -> str:
    """Why equal outputs say little, or nothing: an output that no image changes."""
    images = inputs[-1]
    reasons = [
        f"weak comparison of {name!r}: {reason}"
        for name, output in outputs[-1].items()
        if output.ndim and len(output) == len(images) and (reason := find_degenerate(output, images))
    ]
    return ", ".join(reasons)
