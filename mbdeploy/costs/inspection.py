"""From a model to an InspectReport: everything that follows from the file alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx

from mbdeploy.costs.axes import lighten
from mbdeploy.costs.counting import count_layers, sum_kinds, sum_layers
from mbdeploy.costs.graph import Graph
from mbdeploy.costs.memory import find_peak, measure_liveness
from mbdeploy.costs.reading import read_graph
from mbdeploy.costs.report import InspectReport, Shape
from mbdeploy.costs.rules import RULES, check_rules
from mbdeploy.costs.separable import compare_network, find_blocks
from mbdeploy.costs.subject import make_subject
from mbdeploy.costs.wire import RawData
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.model_file import read_opset
from mbdeploy.records import LayerRecord


def inspect_model(
    model: onnx.ModelProto,
    *,
    name: str,
    size_bytes: int,
    input_shape: Shape | None = None,
    as_standard_conv: bool = False,
    ignore: Collection[str] = (),
    records: Mapping[str, LayerRecord] | None = None,
    raw: RawData | None = None,
) -> InspectReport:
    """Count a model, find its blocks and its peak of memory, and let every rule look at it.

    ``records`` are what a calibration of this model left, by node; without them findings say that ranges
    are unknown. ``raw`` is data of initializers that ``model`` lacks, see ``wire``.

    Raises:
        UsageError: an unknown rule is to be ignored. ModelError: a graph that has no order, no fixed image
        size, or nothing that depends on its input.
    """
    unknown = sorted(set(ignore) - set(RULES))
    if unknown:
        raise UsageError(
            where="--ignore",
            expected=f"rules among {', '.join(RULES)}",
            found=", ".join(unknown),
            todo="see docs/inspect.md for what each one looks for",
        )
    graph = read_graph(lighten(model), input_shape)
    if not graph.nodes:
        raise ModelError(
            where=name,
            expected="a graph that computes something from its input",
            found="constants only",
            todo="check that this is the file you meant",
        )
    liveness = measure_liveness(graph)
    counted = count_layers(graph, liveness)
    total = sum_layers(graph, counted)
    blocks = find_blocks(graph, counted)
    subject = make_subject(model, graph, counted, total, records=records or {}, raw=raw or {})
    return InspectReport(
        model=name,
        size_bytes=size_bytes,
        opset=read_opset(model),
        precision=_name_precision(graph, model),
        batch=next((graph.shapes[tensor][0] for tensor in graph.inputs if graph.shapes.get(tensor)), 1),
        inputs={tensor: graph.shapes[tensor] for tensor in graph.inputs if tensor in graph.shapes},
        outputs={tensor: graph.shapes[tensor] for tensor in graph.outputs if tensor in graph.shapes},
        nodes=len(graph.nodes),
        folded=graph.folded,
        quantizers=graph.quantizers,
        total=total,
        kinds=sum_kinds(graph, counted),
        layers=counted.layers,
        uncounted=counted.uncounted,
        blocks=blocks,
        memory=find_peak(graph, liveness),
        findings=check_rules(subject, ignore),
        ignored=tuple(sorted(ignore)),
        standard=compare_network(total, blocks) if as_standard_conv else None,
    )


def _name_precision(graph: Graph, model: onnx.ModelProto) -> str:
    if graph.quantized:
        return "int8"
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) > 1}
    halves = kinds & {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    return "fp16" if halves and onnx.TensorProto.FLOAT not in kinds else "fp32"
