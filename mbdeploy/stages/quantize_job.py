"""The quantize stage's child: everything that touches native code, from the float model to the placed Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbdeploy import data, model_file
from mbdeploy.card import Preprocess
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.isolate import Progress
from mbdeploy.quant import bias, pairsafe, qdq, ranges
from mbdeploy.quant.calibrate import Observations, observe
from mbdeploy.quant.layers import Layer, read_weight, view_reduction
from mbdeploy.quant.recipes import Recipe, find_recipe, list_techniques, settle_scales
from mbdeploy.quant.recover import Recovered, recover
from mbdeploy.results import LayerRecord

METHODS = ("minmax", *ranges.METHODS)
_OLDEST_OPSET = 13
_BATCH = 8


def quantize_model(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Quantize ``request["model"]`` into ``request["output"]``; the answer holds the fields of a QuantizeRecord."""
    recipe = find_recipe(request["recipe"])
    techniques = list_techniques(recipe, request["without"])
    method = request["method"] or recipe.calibration_method
    _refuse_unknown_method(method)
    source = Path(request["model"])
    model = model_file.load_model(source)
    signature = model_file.read_signature(model, source)
    _refuse_unsuitable(model, source)
    images = data.open_dataset(
        request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"]
    )
    preprocess = _choose_preprocess(model, request["preprocess"], signature, images, source)
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
        for batch in data.load_batches(images, preprocess, batch_size=_BATCH, input_shape=signature.image_shape):
            yield batch.inputs

    seen = Observations(nodes.tensors, counting=method != "minmax")
    observe(
        prepared,
        nodes.tensors,
        nodes.list_corrected_inputs(),
        read_images(),
        into=lambda key: seen,
        threads=request["threads"],
        on_image=lambda what, done: on_progress(what, done, len(images)),
    )
    observed = seen.choose(method)
    activations = _scale_activations(nodes, recipe, observed.ranges)
    weights = _scale_weights(prepared, nodes, recipe, activations)
    recovered: dict[str, Recovered] = {}
    if {"refit", "feedback"} & set(techniques):
        recovered = recover(
            prepared,
            qdq.place_qdq(qdq.Plan(_copy(prepared)), recipe, activations, weights),
            nodes,
            activations,
            recipe.weight_scales,
            read_images(),
            images=len(images),
            techniques=techniques,
            folder=Path(request["scratch"]),
            threads=request["threads"],
            on_progress=on_progress,
        )
    elif "bias" in techniques:
        _correct_biases(prepared, nodes, weights, observed.means)
    layers = [_record_layer(prepared, layer, weights, recovered.get(layer.node), activations) for layer in nodes.layers]
    _replace_constants(prepared, nodes, weights, recovered)
    placed = qdq.place_qdq(nodes, recipe, activations, weights)
    _write_identity(placed, model, preprocess, request["provenance"])
    model_file.save_model(placed, Path(request["output"]))
    operators = _read_optimised_operators(Path(request["output"]))
    return {
        "recipe": recipe.name,
        "techniques": techniques,
        "method": method,
        "samples": len(images),
        "data": images.source,
        "data_digest": request["provenance"]["parents"]["calibration"],
        "layers": msgspec.to_builtins(layers),
        "float_nodes": nodes.excluded,
        "operators": operators,
        "cpu_s": 0.0,
        "peak_bytes": 0,
    }


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def _choose_preprocess(
    model: onnx.ModelProto,
    word: str | None,
    signature: model_file.Signature,
    images: data.Dataset,
    where: Path,
) -> Preprocess | None:
    """The user's word, else the file's own; arrays are preprocessed already, so that they can do without."""
    if word is not None:
        return data.resolve_preprocess(word, size=signature.shape[2] or 224, channels=signature.shape[1] or 3)
    own = model_file.read_preprocess(model)
    if own is None and images.samples[0].row is None:
        raise UsageError(
            where=where,
            expected="preprocessing in the file, or --preprocess",
            found="a file that mbdeploy did not export, and no --preprocess",
            todo="give --preprocess imagenet, tf, lite, unit, raw or a TOML file",
        )
    return own


def _scale_activations(
    nodes: qdq.Plan, recipe: Recipe, observed: dict[str, ranges.Range]
) -> dict[str, ranges.ActivationScale]:
    """The scale of every tensor, those that take over another one's included."""
    own = {name: ranges.choose_scale(observed[name], signed=recipe.signed_activations) for name in nodes.tensors}
    shared = {name: own[nodes.provider_of(name)] for name in nodes.shares if nodes.provider_of(name) in own}
    return {**own, **shared}


def _scale_weights(
    model: onnx.ModelProto, nodes: qdq.Plan, recipe: Recipe, activations: dict[str, ranges.ActivationScale]
) -> dict[str, NDArray[np.float32]]:
    weights: dict[str, NDArray[np.float32]] = {}
    for layer in nodes.layers:
        view = view_reduction(read_weight(model, layer.weight), layer)
        offsets = read_weight(model, layer.bias) if layer.bias else None
        weights[layer.weight] = settle_scales(
            recipe.weight_scales(view, layer), offsets, activations[layer.input].scale
        )
    return weights


def _correct_biases(
    model: onnx.ModelProto,
    nodes: qdq.Plan,
    weights: dict[str, NDArray[np.float32]],
    means: dict[str, NDArray[np.float64]],
) -> None:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in nodes.layers:
        if layer.bias is None or layer.input not in means:
            continue
        weight, scales = read_weight(model, layer.weight), weights[layer.weight]
        integers = view_reduction(qdq.round_weights(weight, scales, layer), layer)
        shift = bias.predict_shift(view_reduction(weight, layer), integers, scales, means[layer.input])
        corrected = numpy_helper.to_array(tensors[layer.bias]).astype(np.float64) - shift
        tensors[layer.bias].CopyFrom(numpy_helper.from_array(corrected.astype(np.float32), layer.bias))


def _replace_constants(
    model: onnx.ModelProto,
    nodes: qdq.Plan,
    weights: dict[str, NDArray[np.float32]],
    recovered: Mapping[str, Recovered],
) -> None:
    """Put recovered weights, as floats on their grid, and biases into the model, and their scales into ``weights``."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in nodes.layers:
        made = recovered.get(layer.node)
        if made is None:
            continue
        tensors[layer.weight].CopyFrom(numpy_helper.from_array(made.dequantize(layer), layer.weight))
        weights[layer.weight] = made.scales
        if made.bias is not None and layer.bias is not None:
            shape = tuple(tensors[layer.bias].dims)
            tensors[layer.bias].CopyFrom(numpy_helper.from_array(made.bias.reshape(shape), layer.bias))


def _record_layer(
    model: onnx.ModelProto,
    layer: Layer,
    weights: Mapping[str, NDArray[np.float32]],
    made: Recovered | None,
    activations: dict[str, ranges.ActivationScale],
) -> LayerRecord:
    view = view_reduction(read_weight(model, layer.weight), layer)
    offsets = read_weight(model, layer.bias) if layer.bias else None
    scales = made.scales if made else weights[layer.weight]
    before, after = activations[layer.input], activations[layer.output]
    plain = settle_scales(pairsafe.plain_scales(view), offsets, before.scale)
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
        recovered_db=(round(made.before_db, 2), round(made.after_db, 2)) if made else None,
    )


def _refuse_unsuitable(model: onnx.ModelProto, source: Path) -> None:
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
    placed: onnx.ModelProto, model: onnx.ModelProto, preprocess: Preprocess | None, provenance: dict[str, Any]
) -> None:
    entries = model_file.read_metadata(model)
    if preprocess is not None:
        entries["mbdeploy.preprocess"] = model_file.dump_json(preprocess)
    entries["mbdeploy.stage"] = "int8"
    entries["mbdeploy.provenance"] = model_file.dump_json(provenance)
    model_file.write_metadata(placed, entries)
    placed.graph.name = model.graph.name
    del placed.graph.value_info[:]  # the quantizer's are partly stale; whoever loads the file infers them again


def _read_optimised_operators(path: Path) -> dict[str, int]:
    """Operators of the graph that ONNX Runtime really runs, counted; loading it here proves that it loads."""
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


def _refuse_unknown_method(method: str) -> None:
    if method not in METHODS:
        raise UsageError(
            where=method,
            expected=f"a calibration method ({', '.join(METHODS)})",
            found="no such method",
            todo="choose one of these with --calibration-method",
        )
