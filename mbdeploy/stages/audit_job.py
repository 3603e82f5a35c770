"""The audit stage's child: reads the INT8 file, lets ONNX Runtime load it, looks at images, and repairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import data, model_file
from mbdeploy.auditing.checks import Facts
from mbdeploy.auditing.clipping import Tally, count_clipped, find_unsafe, merge_tallies
from mbdeploy.auditing.cpus import CPUS, find_hazards
from mbdeploy.auditing.fusing import Fused, name_nodes, optimise
from mbdeploy.auditing.products import Product, Reading, read_products
from mbdeploy.auditing.repairing import repair_model
from mbdeploy.auditing.report import Examined, LayerAudit
from mbdeploy.auditing.rules import check_rules
from mbdeploy.errors import ModelError
from mbdeploy.isolate import Progress
from mbdeploy.stages.subject import check_inputs, choose_preprocess, draw_noise, read_subject

_NOISE_IMAGES = 4
_TYPES = {"u": onnx.TensorProto.UINT8, "s": onnx.TensorProto.INT8}


class Timing(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """The images that nodes are timed over (n, c, h, w), what they are, and with how many threads."""

    images: NDArray[np.float32] | None
    source: str
    threads: int


def audit_file(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Examine ``request["model"]`` and, if ``output`` is given, repair it; the answer holds parts of an AuditReport."""
    path, scratch = Path(request["model"]), Path(request["scratch"])
    model = model_file.load_whole(path)
    reading = read_products(model, path)
    images = _load_images(path, request)
    unsafe = {product.layer.node: find_unsafe(product) for product in reading.products}
    tallies: dict[str, Tally] = {}
    if images is not None:
        suspects = [product for product in reading.products if unsafe[product.layer.node]["pairs"].any()]
        tallies = _watch_inputs(model, reading, suspects, images, request["threads"], on_progress)
    on_progress("loading it into ONNX Runtime", 0, 0)
    answer: dict[str, Any] = {}
    timing = _choose_timed(path, images, request)
    examined = _examine(model, reading, unsafe, tallies, scratch, timing)
    answer["examined"] = msgspec.to_builtins(examined)
    if request["output"] is not None:
        on_progress("repairing", 0, 0)
        against = None if request["against"] is None else Path(request["against"])
        made, record = repair_model(model, path, None if against is None else (model_file.load_whole(against), against))
        model_file.write_metadata(made, {"mbdeploy.provenance": model_file.dump_json(request["provenance"])})
        model_file.save_model(made, Path(request["output"]))
        again = read_products(made, path)
        safe = {product.layer.node: find_unsafe(product) for product in again.products}
        repaired = _examine(made, again, safe, {}, scratch, timing)
        answer |= {"repair": msgspec.to_builtins(record), "repaired": msgspec.to_builtins(repaired)}
    return answer


def _load_images(path: Path, request: Mapping[str, Any]) -> NDArray[np.float32] | None:
    if request["data"] is None:
        return None
    subject = read_subject(path)
    images = data.open_dataset(request["data"], split="check")
    how = choose_preprocess(images, [subject], request["preprocess"])
    arrays = data.load_arrays(images, how, limit=request["num_samples"])
    check_inputs([subject], arrays.shape, request["data"])
    return arrays


def _choose_timed(path: Path, images: NDArray[np.float32] | None, request: Mapping[str, Any]) -> Timing:
    """The user's images, else noise; a file that takes no image is not timed."""
    if images is not None:
        return Timing(images=images, source=f"{len(images)} images of {request['data']}", threads=request["threads"])
    try:
        noise, source = draw_noise(read_subject(path), _NOISE_IMAGES, request["seed"])
    except ModelError:
        return Timing(images=None, source="", threads=request["threads"])
    return Timing(images=noise, source=f"{source}: values do not change the time", threads=request["threads"])


def _watch_inputs(
    model: onnx.ModelProto,
    reading: Reading,
    suspects: list[Product],
    images: NDArray[np.float32],
    threads: int,
    on_progress: Progress,
) -> dict[str, Tally]:
    """What each suspect clips, from its 8-bit inputs in a run without graph optimisation."""
    import onnxruntime

    watched = [product for product in suspects if product.input in reading.tensors.producers]
    names = list(dict.fromkeys(product.input for product in watched))
    copy = model_file.copy_model(model)
    known = {value.name for value in copy.graph.output}
    for product in watched:
        if product.input not in known:
            known.add(product.input)
            copy.graph.output.append(onnx.helper.make_tensor_value_info(product.input, _TYPES[product.kind[0]], None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if not watched:
        return {}
    try:
        session = onnxruntime.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception:
        return {}  # MB310 says what ONNX Runtime has against it
    source = session.get_inputs()[0].name
    tallies: dict[str, Tally] = {}
    for number, image in enumerate(images):
        values = dict(zip(names, session.run(names, {source: image[np.newaxis]}), strict=True))
        for product in watched:
            node = reading.tensors.nodes[product.index]
            seen = _first_image(values[product.input], node)
            tally = count_clipped(product, node, seen, (product.index, number))
            if tally is not None:
                tallies[product.layer.node] = merge_tallies(tallies.get(product.layer.node, Tally()), tally)
        on_progress("looking for outputs that clip", number + 1, len(images))
    return tallies


def _first_image(values: NDArray[Any], node: onnx.NodeProto) -> NDArray[Any]:
    last = any(item.name == "channels_last" and item.i for item in node.attribute)
    return values[:1].transpose(0, 3, 1, 2) if last and values.ndim == 4 else values[:1]


def _examine(
    model: onnx.ModelProto,
    reading: Reading,
    unsafe: Mapping[str, Mapping[str, NDArray[np.bool_]]],
    tallies: Mapping[str, Tally],
    scratch: Path,
    timing: Timing,
) -> Examined:
    fused, refusal = _load(model, reading, scratch, timing)
    facts = Facts(reading=reading, unsafe=unsafe, tallies=tallies, fused=fused, refusal=refusal)
    layers = [_describe(product, facts) for product in reading.products]
    forms = sorted({product.form for product in reading.products})
    return Examined(
        form=" and ".join(forms) or "QDQ",
        layers=tuple(layers),
        unjudged=reading.unjudged,
        cpus={cpu.name: sum(_goes_wrong(layer, cpu.name) for layer in layers) for cpu in CPUS},
        findings=check_rules(facts),
        operators=fused.operators if fused else {},
        conversion_share=fused.share(fused.conversions) if fused else None,
        timed_on=timing.source if fused and fused.times else "",
    )


def _load(model: onnx.ModelProto, reading: Reading, scratch: Path, timing: Timing) -> tuple[Fused | None, str]:
    """The optimised graph, or what ONNX Runtime says against the file."""
    named = model_file.copy_model(model)
    name_nodes(named, reading.tensors)
    path = scratch / "named.onnx"
    model_file.save_model(named, path)
    try:
        return optimise(path, scratch, timing.images, timing.threads), ""
    except Exception as error:  # its exceptions have no base of their own
        return None, (str(error).strip() or type(error).__name__).splitlines()[0]


def _describe(product: Product, facts: Facts) -> LayerAudit:
    node = product.layer.node
    tally = facts.tallies.get(node)
    return LayerAudit(
        node=node,
        operator=product.layer.operator,
        kind=product.kind,
        per_channel=product.per_channel,
        depthwise=product.layer.depthwise,
        channels=product.channels,
        pairs=float(facts.unsafe[node]["pairs"].mean()),
        twins=float(facts.unsafe[node]["twins"].mean()),
        clipped=None if tally is None else tally.share,
        clipped_db=None if tally is None else tally.sqnr_db,
        fused=facts.fused.integer.get(node) if facts.fused else None,
        time_share=facts.fused.share([node]) if facts.fused else None,
    )


def _goes_wrong(layer: LayerAudit, cpu: str) -> bool:
    hazard = find_hazards(layer.kind)[cpu]
    return (hazard == "pairs" and layer.pairs > 0) or (hazard == "twins" and layer.twins > 0)
