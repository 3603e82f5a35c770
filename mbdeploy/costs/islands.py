"""MB201: parts of a network that stay in float when the rest is int8, and what the way there and back costs."""

from __future__ import annotations

import math

import onnx
from onnx import helper

from mbdeploy.costs.graph import Graph, Node, is_fused, is_view
from mbdeploy.costs.report import Evidence, Finding
from mbdeploy.costs.subject import Subject, say, worst_first
from mbdeploy.model_file import copy_model
from mbdeploy.quant.norms import find_norms
from mbdeploy.quant.prepare import expand_hard_swish, find_absorbable
from mbdeploy.quant.qdq import QUANTIZED_OPERATORS, Plan

_CHANGES = {
    "h-swish": "quantize the float file with `mbdeploy quantize`, which computes h-swish on bytes",
    "hard sigmoid": "have it right behind a convolution, or 1/2 at 0: then `mbdeploy quantize` computes it on bytes",
    "swish": "train with ReLU6 in place of swish where int8 matters",
    "squeeze-and-excite gate": "leave squeeze-and-excite out, as the Lite variants do",
    "unfused pooling": "run `mbdeploy simplify`, which makes it a GlobalAveragePool",
    "unfolded batch norm": "run `mbdeploy simplify`, which folds it into the convolution",
    "softmax": "leave the softmax to the code that reads the logits",
    "": "use operators with an int8 kernel in place of those named",
}
_BY_OPERATOR = {
    "HardSwish": "h-swish",
    "HardSigmoid": "hard sigmoid",
    "ReduceMean": "unfused pooling",
    "BatchNormalization": "unfolded batch norm",
    "Softmax": "softmax",
}


def check_islands(subject: Subject) -> Finding | None:
    """A node without an int8 kernel makes the tensors around it change to float and back."""
    reasons = _find_float_nodes(subject)
    if not reasons:
        return None
    graph = subject.graph
    found, causes = [], {}
    for island in _join_neighbours(graph, reasons):
        named = {_name_cause(graph, node): reasons[node.name] for node in island}
        causes.update(dict.fromkeys(named))
        operators = ", ".join(dict.fromkeys(node.operator for node in island))
        cause = "; ".join(name or reason for name, reason in named.items())
        text = f"{operators}: {cause}"
        found.append(Evidence(node=island[0].name, text=text, bytes=_count_conversion(graph, island)))
    moved = sum(evidence.bytes for evidence in found)
    share = moved / max(1, subject.total.bytes_int8)
    return Finding(
        rule="MB201",
        title="float islands",
        summary=f"{say(len(reasons), 'node')} in {say(len(found), 'island')} in float; changing to float and "
        f"back moves {moved / 1e6:.2f} MB ({share:.0%} of all int8 traffic)",
        change="; ".join(dict.fromkeys(_CHANGES[cause] for cause in causes)),
        evidence=worst_first(found),
    )


def _find_float_nodes(subject: Subject) -> dict[str, str]:
    """By executed node's name, why it stays in float: as our quantizer decides it, or as a quantized file has it."""
    graph = subject.graph
    nodes = [node for node in graph.nodes if not is_view(node)]
    if subject.is_quantized:
        return {node.name: reason for node in nodes if (reason := _why_float(graph, node))}
    excluded = _predict_float(subject)
    return {node.name: excluded[node.name] for node in nodes if node.name in excluded}


def _predict_float(subject: Subject) -> dict[str, str]:
    """What `mbdeploy quantize` would leave in float, by node: it works on the graph as ``prepare_model`` changes it."""
    model = copy_model(subject.skeleton)
    swishes = expand_hard_swish(model)
    for name in {name for node in model.graph.node for name in (*node.input, *node.output)}:
        dtype = subject.graph.dtypes.get(name, onnx.TensorProto.FLOAT)
        model.graph.value_info.append(helper.make_tensor_value_info(name, dtype, None))
    ranks = {name: len(shape) for name, shape in subject.graph.shapes.items()}
    turned = {gate.name for gate, _ in find_absorbable(model)} | {node.name for node in find_norms(model, ranks)}
    excluded = Plan(model).excluded
    return {swishes.get(name, name): reason for name, reason in excluded.items() if name not in turned}


def _why_float(graph: Graph, node: Node) -> str:
    if is_fused(graph, node) and node.inputs[0] not in graph.quantized:
        return ""
    plain = node.operator.rpartition("::")[2].removeprefix("QLinear")
    if plain not in QUANTIZED_OPERATORS:
        return f"{node.operator} has no int8 kernel in ONNX Runtime's CPU provider"
    if all(tensor in graph.quantized for tensor in graph.activations(node.inputs)):
        return ""
    return "its input is not quantized"


def _join_neighbours(graph: Graph, reasons: dict[str, str]) -> list[list[Node]]:
    islands: list[list[Node]] = []
    place: dict[str, int] = {}
    for node in graph.nodes:
        if node.name not in reasons:
            continue
        makers = (graph.producers.get(tensor) for tensor in node.inputs)
        touched = sorted({place[maker.name] for maker in makers if maker is not None and maker.name in place})
        home = touched[0] if touched else len(islands)
        if not touched:
            islands.append([])
        for other in touched[1:]:
            islands[home] += islands[other]
            place.update({moved.name: home for moved in islands[other]})
            islands[other] = []
        islands[home].append(node)
        place[node.name] = home
    return [island for island in islands if island]


def _count_conversion(graph: Graph, island: list[Node]) -> int:
    """Bytes of the DQ before and the Q after: a byte and a float for each number that goes in or out."""
    inside = {tensor for node in island for tensor in node.outputs}
    entering = {tensor for node in island for tensor in graph.activations(node.inputs)} - inside - set(graph.inputs)
    members = {node.name for node in island}
    leaving = {
        tensor for tensor in inside if any(reader.name not in members for reader in graph.consumers.get(tensor, ()))
    }
    return sum(5 * graph.elements(tensor) for tensor in entering | leaving if tensor in graph.shapes)


def _name_cause(graph: Graph, node: Node) -> str:
    """A short name for what the node belongs to, "" if it has none."""
    if node.operator == "Sigmoid":
        shape = graph.shapes.get(node.outputs[0], ())
        return "squeeze-and-excite gate" if len(shape) == 4 and math.prod(shape[2:]) == 1 else "swish"
    return _BY_OPERATOR.get(node.operator, "")
