"""The quantize stage's child: everything that touches native code, from the float model to the placed Q/DQ pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from mbdeploy import data, model_file
from mbdeploy.card import Preprocess
from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress
from mbdeploy.mixing.kit import Kit, write_kit
from mbdeploy.quant import bias, pairsafe, qdq, ranges
from mbdeploy.quant.calibrate import Observations, observe
from mbdeploy.quant.gates import scale_gates
from mbdeploy.quant.keeping import match_nodes
from mbdeploy.quant.layers import Layer, read_weight, view_reduction
from mbdeploy.quant.recipes import Recipe, find_recipe, list_techniques, settle_scales
from mbdeploy.quant.recover import Recovered, recover
from mbdeploy.quant.widen_image import widen
from mbdeploy.records import LayerRecord
from mbdeploy.stages.material import read_calibration, read_material, refuse_unknown_method


def quantize_model(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Quantize ``request["model"]`` into ``request["output"]``; the answer holds the fields of a QuantizeRecord."""
    recipe = find_recipe(request["recipe"])
    techniques = list_techniques(recipe, request["without"])
    method = request["method"] or recipe.calibration_method
    refuse_unknown_method(method)
    images = _open_images(request, needed=not request["ranges"] or bool({"refit", "feedback"} & set(techniques)))
    material = read_material(request, images)
    prepared = material.prepared
    kept = match_nodes(prepared, request["keep_float"])
    nodes = qdq.Plan(prepared, kept) if kept else material.plan
    floats = model_file.copy_model(prepared) if request["kit"] else prepared
    count = len(images) if images is not None else 0
    if request["ranges"]:
        observed = read_calibration(
            Path(request["ranges"]), Path(request["model"]), material.plan, method, nodes.tensors
        )
    else:
        seen = Observations(nodes.tensors, counting=method != "minmax")
        observe(
            prepared,
            nodes.tensors,
            nodes.list_corrected_inputs(),
            material.read_images(),
            into=lambda key: seen,
            threads=request["threads"],
            on_image=lambda what, done: on_progress(what, done, count),
        )
        observed = seen.choose(method)
    activations = _scale_activations(nodes, recipe, observed.ranges)
    weights = _scale_weights(prepared, nodes, recipe, activations)
    means = observed.means if "bias" in techniques else {}
    recovered: dict[str, Recovered] = {}
    if {"refit", "feedback"} & set(techniques):
        rounded = model_file.copy_model(prepared)
        _correct_biases(rounded, nodes.layers, weights, means)
        recovered = recover(
            prepared,
            qdq.place_qdq(qdq.Plan(rounded, kept), recipe, activations, weights),
            nodes,
            activations,
            recipe,
            material.read_images(),
            images=count,
            techniques=techniques,
            folder=Path(request["scratch"]),
            threads=request["threads"],
            on_progress=on_progress,
        )
    _correct_biases(prepared, [layer for layer in nodes.layers if layer.node not in recovered], weights, means)
    layers = [_record_layer(prepared, layer, weights, recovered.get(layer.node), activations) for layer in nodes.layers]
    _replace_constants(prepared, nodes, weights, recovered)
    if request["kit"]:
        write_kit(Path(request["kit"]), Kit(floats, prepared, recipe, activations, weights))
    placed = qdq.place_qdq(nodes, recipe, activations, weights)
    widened = widen(placed)
    _write_identity(placed, material.model, material.preprocess, request["provenance"])
    model_file.save_model(placed, Path(request["output"]))
    in_float = nodes.list_float(placed)
    operators = _read_optimised_operators(Path(request["output"]))
    return {
        "recipe": recipe.name,
        "techniques": [name for name in techniques if name != "bias" or recovered or means],
        "method": method,
        "samples": count,
        "data": images.source if images is not None else "",
        "ranges": request["ranges"],
        "data_digest": request["provenance"]["parents"].get("calibration", ""),
        "layers": msgspec.to_builtins(layers),
        "float_nodes": in_float,
        "operators": operators,
        "widened": widened,
        "gates": [gate.node for gate in nodes.gates if gate.node not in in_float],
        "cpu_s": 0.0,
        "peak_bytes": 0,
    }


def _open_images(request: dict[str, Any], *, needed: bool) -> data.Dataset | None:
    """The calibration images, or None where none were given and none are needed."""
    if request["calibration"] is None and not needed:
        return None
    if request["calibration"] is None:
        raise UsageError(
            expected="calibration images",
            found=f"--ranges alone, and recipe {request['recipe']}, which fits weights to images",
            todo="give --calibration too, or --fast",
        )
    return data.open_dataset(request["calibration"], split="calibrate", limit=request["samples"], seed=request["seed"])


def _scale_activations(
    nodes: qdq.Plan, recipe: Recipe, observed: dict[str, ranges.Range]
) -> dict[str, ranges.ActivationScale]:
    """The scale of every tensor, those that take over another one's included."""
    own = {name: ranges.choose_scale(observed[name], signed=recipe.signed_activations) for name in nodes.tensors}
    if not recipe.signed_activations:
        scale_gates(nodes.gates, own)
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
    layers: Iterable[Layer],
    weights: dict[str, NDArray[np.float32]],
    means: dict[str, NDArray[np.float64]],
) -> None:
    """Correct the biases of layers whose weights are rounded to nearest, where their inputs' means are known."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer in layers:
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
