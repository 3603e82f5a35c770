"""The quantize stage: a float ONNX file and calibration images in, one INT8 file with Q/DQ pairs out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mbdeploy import artifact, data, model_file
from mbdeploy.artifact import Provenance
from mbdeploy.card import Preprocess
from mbdeploy.errors import ModelError, StepError, UsageError
from mbdeploy.isolate import Limits, Progress, Verdict, ignore_progress, run_step
from mbdeploy.quant import calibrate, pairsafe, qdq, ranges
from mbdeploy.quant.layers import Layer, read_weight, view_reduction
from mbdeploy.quant.recipes import Recipe, find_recipe, settle_scales
from mbdeploy.results import LayerRecord, QuantizeRecord

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

METHODS = ("minmax", *ranges.METHODS)
_OLDEST_OPSET = 13
_BATCH = 8


def quantize(
    model: Path,
    *,
    output: Path,
    calibration: str,
    recipe: str = "portable",
    calibration_method: str = "minmax",
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    threads: int = 1,
    seed: int = 0,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> QuantizeRecord:
    """Quantize a float model statically to INT8 and write it, with its sidecar, to ``output``.

    ``calibration`` is a folder, manifest, CSV or npz; ``preprocess`` (a preset's name or a TOML file)
    overrides what the file says of itself. The same model, images and options give the same bytes,
    whatever the order of the images and the number of threads.

    Raises:
        UsageError: unknown recipe or method. ModelError, DataError: unusable input. OutputError: nowhere
        to write. StepError: the native step crashed, hung or ran out of memory.
    """
    find_recipe(recipe)
    if calibration_method not in METHODS:
        raise UsageError(
            where=calibration_method,
            expected=f"a calibration method ({', '.join(METHODS)})",
            found="no such method",
            todo="choose one of these with --calibration-method",
        )
    provenance = plan(
        model,
        calibration=calibration,
        recipe=recipe,
        calibration_method=calibration_method,
        num_calibration_samples=num_calibration_samples,
        preprocess=preprocess,
        seed=seed,
    )
    with artifact.writing(output) as temporary:
        request = {
            "model": str(model),
            "output": str(temporary),
            "calibration": calibration,
            "recipe": recipe,
            "method": calibration_method,
            "samples": num_calibration_samples,
            "preprocess": preprocess,
            "threads": threads,
            "seed": seed,
            "provenance": msgspec.to_builtins(provenance),
        }
        outcome = run_step("mbdeploy.stages.quantize:quantize_model", request, limits=limits, on_progress=on_progress)
        if outcome.verdict is not Verdict.OK:
            raise StepError(
                where=model,
                expected="quantization to run to its end",
                found=f"{outcome.verdict.value}: {outcome.detail}",
                todo="check that the model runs (`mbdeploy verify`) and that the limits suffice",
            )
    usage = {"cpu_s": round(outcome.cpu_s, 2), "peak_bytes": outcome.peak_bytes}
    record = msgspec.convert({**outcome.value, **usage}, QuantizeRecord)
    artifact.write_sidecar(output, provenance, record)
    return record


def plan(
    model: Path,
    *,
    calibration: str,
    recipe: str = "portable",
    calibration_method: str = "minmax",
    num_calibration_samples: int = 128,
    preprocess: str | None = None,
    seed: int = 0,
) -> Provenance:
    """What ``quantize`` would do with these inputs: the basis of the freshness key."""
    if not model.is_file():
        raise ModelError(where=model, expected="an ONNX model", found="no such file", todo="check the path")
    images = data.open_dataset(calibration, split="calibrate", limit=num_calibration_samples, seed=seed)
    return Provenance(
        stage="quantize",
        params={
            "recipe": recipe,
            "method": calibration_method,
            "samples": len(images),
            "preprocess": preprocess,
            "seed": seed,
        },
        parents={"model": artifact.digest_file(model), "calibration": images.digest()},
        tools=artifact.read_tools("onnx", "onnxruntime", "numpy", "pillow"),
    )


def quantize_model(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """The child's side of ``quantize``: everything that touches native code."""
    source = Path(request["model"])
    model = model_file.load_model(source)
    signature = model_file.read_signature(model, source)
    _refuse_unsuitable(model, source)
    recipe = find_recipe(request["recipe"])
    preprocess = choose_preprocess(model, request["preprocess"], signature, source)
    images = data.open_dataset(
        request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"]
    )
    prepared = qdq.prepare_model(model)
    nodes = qdq.Plan(prepared)
    if not nodes.layers:
        raise ModelError(
            where=source,
            expected="a float model with Conv, Gemm or MatMul on constant weights",
            found="none that could be quantized",
            todo="check that this is a float file, and run `mbdeploy simplify` on it first",
        )

    def read_images() -> Iterator[NDArray[np.float32]]:
        shape = (signature.shape[1], signature.shape[2], signature.shape[3])
        for batch in data.load_batches(images, preprocess, batch_size=_BATCH, input_shape=_fixed(shape)):
            yield batch.inputs

    observed = calibrate.calibrate(
        prepared,
        nodes.tensors,
        request["method"],
        read_images,
        threads=request["threads"],
        on_image=lambda what, done: on_progress(what, done, len(images)),
    )
    scales = {name: ranges.choose_scale(observed[name], signed=recipe.signed_activations) for name in nodes.tensors}
    activations = {**scales, **{name: scales[source_] for name, source_ in _follow(nodes, scales)}}
    weights, layers = _scale_weights(prepared, nodes, recipe, activations)
    placed = qdq.place_qdq(nodes, recipe, activations, weights)
    _write_identity(placed, model, preprocess, request["provenance"])
    model_file.save_model(placed, Path(request["output"]))
    operators = _read_optimised_operators(Path(request["output"]))
    return {
        "recipe": recipe.name,
        "method": request["method"],
        "samples": len(images),
        "data": images.source,
        "data_digest": images.digest(),
        "layers": msgspec.to_builtins(layers),
        "float_nodes": nodes.excluded,
        "operators": operators,
        "cpu_s": 0.0,
        "peak_bytes": 0,
    }


def choose_preprocess(
    model: onnx.ModelProto, word: str | None, signature: model_file.Signature, where: Path
) -> Preprocess:
    """The preprocessing to use: the user's word, else the file's own, else a refusal."""
    size = signature.shape[2] or 224
    channels = signature.shape[1] or 3
    if word is not None:
        return data.resolve_preprocess(word, size=size, channels=channels)
    own = model_file.read_preprocess(model)
    if own is None:
        raise UsageError(
            where=where,
            expected="preprocessing in the file, or --preprocess",
            found="a file that mbdeploy did not export, and no --preprocess",
            todo="give --preprocess imagenet, tf, lite, unit, raw or a TOML file",
        )
    return own


def _scale_weights(
    model: onnx.ModelProto, nodes: qdq.Plan, recipe: Recipe, activations: dict[str, ranges.ActivationScale]
) -> tuple[dict[str, NDArray[np.float32]], list[LayerRecord]]:
    weights: dict[str, NDArray[np.float32]] = {}
    records = []
    for layer in nodes.layers:
        weight = read_weight(model, layer.weight)
        view = view_reduction(weight, layer)
        bias = read_weight(model, layer.bias) if layer.bias else None
        input_scale = activations[layer.input].scale
        weights[layer.weight] = settle_scales(recipe.weight_scales(view, layer), bias, input_scale)
        records.append(_record_layer(layer, weight, weights[layer.weight], bias, activations))
    return weights, records


def _record_layer(
    layer: Layer,
    weight: NDArray[np.float32],
    scales: NDArray[np.float32],
    bias: NDArray[np.float32] | None,
    activations: dict[str, ranges.ActivationScale],
) -> LayerRecord:
    view = view_reduction(weight, layer)
    before, after = activations[layer.input], activations[layer.output]
    plain = settle_scales(pairsafe.plain_scales(view), bias, before.scale)
    integers = np.clip(np.rint(view / plain[:, np.newaxis, np.newaxis]), -128, 127).astype(np.int32)
    clipping = 0.0 if layer.depthwise else float(pairsafe.find_clipping(integers).mean())
    growth = scales.astype(np.float64) / plain
    return LayerRecord(
        node=layer.node,
        operator=layer.operator,
        weight=layer.weight,
        depthwise=layer.depthwise,
        input_range=(before.low, before.high),
        output_range=(after.low, after.high),
        weight_scale=(float(scales.min()), float(scales.max())),
        growth_mean=float(growth.mean()),
        growth_max=float(growth.max()),
        clipping=clipping,
    )


def _follow(nodes: qdq.Plan, scales: dict[str, ranges.ActivationScale]) -> Iterator[tuple[str, str]]:
    for tensor in nodes.shares:
        provider = nodes.provider_of(tensor)
        if provider in scales:
            yield tensor, provider


def _fixed(shape: tuple[int | None, int | None, int | None]) -> tuple[int, int, int] | None:
    channels, height, width = shape
    return (channels, height, width) if channels and height and width else None


def _refuse_unsuitable(model: onnx.ModelProto, source: Path) -> None:
    from onnx import numpy_helper

    operators = {node.op_type for node in model.graph.node}
    if "DequantizeLinear" in operators or any(name.startswith("QLinear") for name in operators):
        raise ModelError(
            where=source, expected="a float model", found="one that is quantized already", todo="give the FP32 file"
        )
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OLDEST_OPSET:
        raise ModelError(
            where=source,
            expected=f"opset {_OLDEST_OPSET} or newer, for scales per channel",
            found=f"opset {opset}",
            todo="export it again with a newer opset, or convert it with onnx.version_converter",
        )
    for tensor in model.graph.initializer:
        if tensor.data_type == 1 and not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise ModelError(
                where=source,
                expected="finite weights",
                found=f"NaN or infinity in {tensor.name!r}",
                todo="repair or train the model again",
            )


def _write_identity(
    placed: onnx.ModelProto, model: onnx.ModelProto, preprocess: Preprocess, provenance: dict[str, Any]
) -> None:
    entries = model_file.read_metadata(model)
    entries["mbdeploy.preprocess"] = model_file.dump_json(preprocess)
    entries["mbdeploy.stage"] = "int8"
    entries["mbdeploy.provenance"] = model_file.dump_json(provenance)
    model_file.write_metadata(placed, entries)
    placed.graph.name = model.graph.name
    del placed.graph.value_info[:]  # the quantizer's are partly stale; whoever loads the file infers them again


def _read_optimised_operators(path: Path) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime really runs, counted; loading it here proves that it loads."""
    import onnx
    import onnxruntime

    optimised = path.with_name(path.name + ".optimised")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(optimised)
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
        graph = onnx.load(optimised).graph
    finally:
        if optimised.exists():
            optimised.unlink()
    return dict(sorted(Counter(node.op_type for node in graph.node).items()))
