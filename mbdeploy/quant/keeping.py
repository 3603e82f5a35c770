"""Which nodes stay in float because someone asked: those named, and the activations that belong to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import onnx

from mbdeploy.errors import UsageError
from mbdeploy.model_file import list_readers

_ACTIVATIONS = frozenset("Relu Clip LeakyRelu PRelu HardSigmoid Sigmoid".split())


def match_nodes(model: onnx.ModelProto, patterns: Sequence[str]) -> list[str]:
    """Names of nodes that match any of ``patterns`` (``*`` and ``?`` as in a shell), in graph order.

    Raises:
        UsageError: a pattern that no node matches.
    """
    names = [node.name for node in model.graph.node]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                where=pattern,
                expected="the name of a node, or a pattern such as 'features.0.*'",
                found="no node of that name",
                todo="see `mbdeploy inspect MODEL.onnx` for the names",
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def add_followers(model: onnx.ModelProto, names: Collection[str]) -> set[str]:
    """The nodes named and the activation functions of their outputs: in float ONNX Runtime fuses these with them.

    x HardSigmoid(x) and x Sigmoid(x), which make h-swish and SiLU, count as activations.
    """
    readers = list_readers(model.graph)
    nodes = {node.name: node for node in model.graph.node}
    found: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        made = nodes[name].output[0]
        below = readers.get(made, [])
        gated = {reader.output[0] for reader in below if reader.op_type in ("HardSigmoid", "Sigmoid")}
        for reader in below:
            alone = reader.op_type in _ACTIVATIONS and (len(below) == 1 or reader.output[0] in gated)
            product = (
                reader.op_type == "Mul" and bool(set(reader.input) - {made}) and set(reader.input) <= {made, *gated}
            )
            if alone or product:
                pending.append(reader.name)
    return found
