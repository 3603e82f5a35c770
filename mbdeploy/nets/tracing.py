"""From a torch network to an ONNX model, by torch.export or by TorchScript, without what differs from run to run."""

from __future__ import annotations

import io
import re
import time
import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from mbdeploy.errors import ModelError, UsageError
from mbdeploy.nets.running import INPUT_NAME, condense_error

BATCH_AXIS = "batch"
TRACED_BATCH = 3  # neither 1, which torch treats as special, nor a size at which the result is compared


def trace_network(
    network: nn.Module | torch.export.ExportedProgram,
    shape: tuple[int, int, int],
    *,
    exporter: str,
    opset: int,
    outputs: tuple[str, ...],
    where: str,
) -> tuple[onnx.ModelProto, float]:
    """The network as an ONNX model with a dynamic batch, and the seconds that torch took to write it.

    ``shape`` is one image's (C, H, W); ``outputs`` are the names of the outputs. Rules: 1. the file has
    the opset that was asked for. 2. Its first axis is called ``batch``. 3. Nothing in it tells where or
    when it was made: stack traces and other notes of the exporter are taken out.

    Raises:
        UsageError: an opset that no exporter knows.
        ModelError: torch cannot trace the network, or not with a dynamic batch or this opset.
    """
    newest = onnx.defs.onnx_opset_version()
    if not 7 <= opset <= newest:
        raise UsageError(expected=f"an opset in 7..{newest}", found=str(opset), todo="give another --opset")
    example = torch.zeros(TRACED_BATCH, *shape)
    started = time.perf_counter()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporters' notes to their own developers
            model = EXPORTERS[exporter](network, example, opset, outputs)
    except Exception as error:  # torch has no common base for what its exporters raise
        other = next(name for name in EXPORTERS if name != exporter)
        raise ModelError(
            where=where,
            expected=f"a network that the {exporter} exporter can trace",
            found=condense_error(error),
            todo=f"try --exporter {other}, or change the forward method there",
        ) from error
    seconds = time.perf_counter() - started
    _check_opset(model, opset, where)
    _name_batch(model, where)
    _strip(model)
    return model, seconds


def _trace_dynamo(
    network: nn.Module | torch.export.ExportedProgram, example: Tensor, opset: int, outputs: tuple[str, ...]
) -> onnx.ModelProto:
    is_program = isinstance(network, torch.export.ExportedProgram)
    program = torch.onnx.export(
        network,
        () if is_program else (example,),
        dynamo=True,
        dynamic_shapes=None if is_program else ({0: BATCH_AXIS},),
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=list(outputs),
        optimize=True,
        verbose=False,
    )
    model: onnx.ModelProto = program.model_proto
    _name_nodes(model)
    return model


def _trace_torchscript(network: nn.Module, example: Tensor, opset: int, outputs: tuple[str, ...]) -> onnx.ModelProto:
    written = io.BytesIO()
    torch.onnx.export(
        network,
        (example,),
        written,
        dynamo=False,
        dynamic_axes={name: {0: BATCH_AXIS} for name in (INPUT_NAME, *outputs)},
        opset_version=opset,
        input_names=[INPUT_NAME],
        output_names=list(outputs),
    )
    return onnx.load_model_from_string(written.getvalue())


#: The two ways from a network to ONNX.
EXPORTERS = {"dynamo": _trace_dynamo, "torchscript": _trace_torchscript}


def _name_nodes(model: onnx.ModelProto) -> None:
    # The exporter's names are numbers that depend on what else ran. A layer is called as in the network.
    weights = {tensor.name for tensor in model.graph.initializer}
    taken: Counter[str] = Counter()
    for node in model.graph.node:
        weight = next((name for name in node.input if name.endswith(".weight") and name in weights), "")
        name = weight.removesuffix(".weight") or node.op_type
        taken[name] += 1
        node.name = name if weight and taken[name] == 1 else f"{name}_{taken[name]}"


def _check_opset(model: onnx.ModelProto, opset: int, where: str) -> None:
    found = {entry.domain: entry.version for entry in model.opset_import}.get("")
    if found != opset:  # 1.
        raise ModelError(
            where=where,
            expected=f"a graph of opset {opset}",
            found=f"opset {found}, which the exporter could not convert",
            todo="give --opset 18 or newer, or --exporter torchscript",
        )


def _name_batch(model: onnx.ModelProto, where: str) -> None:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    axes = inputs[0].type.tensor_type.shape.dim if len(inputs) == 1 else ()
    if not axes or not axes[0].dim_param:
        found = f"a batch fixed to {axes[0].dim_value}" if axes else f"{len(inputs)} inputs in the graph"
        raise ModelError(
            where=where,
            expected="one image input with a dynamic batch",
            found=found,
            todo="export it with a dynamic first axis, and keep the forward method in torch operators",
        )
    old = re.compile(rf"\b{re.escape(axes[0].dim_param)}\b")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = old.sub(BATCH_AXIS, axis.dim_param)  # 2.


def _strip(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]
    model.doc_string = ""
    for function in model.functions:
        _strip_parts([function, *function.value_info])
        _strip_nodes(function.node)
    _strip_graph(model.graph)


def _strip_graph(graph: onnx.GraphProto) -> None:
    _strip_parts([graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer])
    _strip_nodes(graph.node)


def _strip_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _strip_parts([node, *node.attribute])
        for attribute in node.attribute:
            for graph in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                _strip_graph(graph)


def _strip_parts(parts: Iterable[Any]) -> None:
    for part in parts:
        part.ClearField("doc_string")
        if "metadata_props" in part.DESCRIPTOR.fields_by_name:
            part.ClearField("metadata_props")  # 3.
