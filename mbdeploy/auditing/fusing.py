"""What ONNX Runtime makes of a quantized file here: which products run in integers, what stays between, and times."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.auditing.constants import Tensors
from mbdeploy.auditing.origins import BLOCKED, find_origins
from mbdeploy.auditing.products import Product, Reading
from mbdeploy.model_file import list_readers

_FLOAT = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose"}
_CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
_MOVES = ("Transpose", "Reshape")
#: Changes of layout around products in float, on blocks of channels.
_REORDERS = ("ReorderInput", "ReorderOutput")
#: Inferences that are profiled, at least.
_RUNS = 16
_MERGED = ("Relu", "Clip")  # these go into the scale of the QuantizeLinear behind them


class Fused(msgspec.Struct, frozen=True, kw_only=True):
    """The optimised graph. ``operators`` counts it; ``integer`` says by node whether a product runs in integers.

    ``between`` are conversions that stand neither at an input nor at an output of the graph; ``islands`` the nodes
    in float that they stand beside. ``beside`` says by conversion, and by change of layout, which node in float it is
    there for (itself where there is none). ``times`` are nanoseconds by node name over the profiled images.
    """

    operators: dict[str, int]
    integer: dict[str, bool]
    between: int
    islands: dict[str, str]
    conversions: frozenset[str]
    beside: dict[str, str]
    times: dict[str, int] = {}

    def share(self, names: Iterable[str]) -> float | None:
        """The share of the time that these nodes took; None if nothing was profiled."""
        total = sum(self.times.values())
        return sum(self.times.get(name, 0) for name in names) / total if total else None


def name_nodes(model: onnx.ModelProto, tensors: Tensors) -> None:
    """Give every node a name of its own, by which its trace in the optimised graph is found."""
    taken: Counter[str] = Counter()
    for index, node in enumerate(model.graph.node):
        node.name = tensors.name(index)
        taken[node.name] += 1
        if taken[node.name] > 1:
            node.name = f"{node.name}_{index}"


def optimise(path: Path, scratch: Path, images: NDArray[np.float32] | None, threads: int) -> Fused:
    """Load a file as users do, on the CPU provider, and profile it over ``images``, one by one.

    They are run ``_RUNS`` times at least, by turns; the first time warms up and does not count.

    Raises:
        Exception: ONNX Runtime's own, for a file that it refuses.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(scratch / "optimised.onnx")
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if images is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(scratch / "profile")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    times = Counter[str]() if images is None else _profile(session, images)
    graph = onnx.load(scratch / "optimised.onnx", load_external_data=False).graph
    _name_unnamed(graph, list(times))
    source = onnx.load(path, load_external_data=False).graph
    return _judge(graph, source, times)


def _profile(session: Any, images: NDArray[np.float32]) -> Counter[str]:
    """Nanoseconds by node; none where it does not run on these images, which is for those to say who run it."""
    name = session.get_inputs()[0].name
    try:
        for number in range(max(len(images), _RUNS) + 1):
            session.run(None, {name: images[number % len(images)][np.newaxis]})
    except Exception:  # ONNX Runtime's exceptions have no base of their own
        return Counter()
    return _read_times(Path(session.end_profiling()))


def _name_unnamed(graph: onnx.GraphProto, profiled: list[str]) -> None:
    """Name the nodes without a name as the profile does, where it has one entry a node, in the order of the graph."""
    nodes = graph.node
    in_step = len(profiled) == len(nodes) and all(
        node.name in ("", name) for node, name in zip(nodes, profiled, strict=True)
    )
    for index, node in enumerate(nodes):
        node.name = node.name or (profiled[index] if in_step else f"{node.op_type}_{node.output[0]}")


def explain_float(reading: Reading, product: Product) -> str:
    """Why a Conv, Gemm or MatMul between Q/DQ pairs is not made an integer product."""
    tensors = reading.tensors
    node = tensors.nodes[product.index]
    result = node.output[0]
    readers = tensors.readers[result]
    while len(readers) == 1 and tensors.nodes[readers[0][0]].op_type in _MERGED:
        result = tensors.nodes[readers[0][0]].output[0]
        readers = tensors.readers[result]
    others = sorted({tensors.nodes[index].op_type for index, _ in readers} - {"QuantizeLinear"})
    if others or not readers:
        return f"its result goes to {', '.join(others) or 'an output'} before it is quantized"
    ends = [product.input, tensors.nodes[readers[0][0]].output[0]]
    if any(tensors.type_of(name) == "s8" and _count_readers(tensors, name) > 1 for name in ends):
        return "s8 activations that several nodes read: on x86 only those that one node reads become u8"
    before, after = map(tensors.type_of, ends)
    if before != after:
        return f"its input is {before} and its result {after}"
    if len(node.input) > 2 and node.input[2] and product.bias is None:
        return "its bias is not int32 behind a DequantizeLinear"  # newer versions see to that themselves
    return "ONNX Runtime does not say why"


def _count_readers(tensors: Tensors, stored: str) -> int:
    """How many nodes read a tensor of 8 bits, through whatever DequantizeLinear."""
    found = 0
    for index, _ in tensors.readers[stored]:
        node = tensors.nodes[index]
        found += len(tensors.readers[node.output[0]]) if node.op_type == "DequantizeLinear" else 1
    return found


def _judge(graph: onnx.GraphProto, source: onnx.GraphProto, times: Counter[str]) -> Fused:
    origins = find_origins(source, graph)
    operators = {node.name: node.op_type for node in source.node}
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    readers = list_readers(graph)
    between = [
        node
        for node in graph.node
        if node.op_type in _CONVERSIONS
        and node.input[0] not in constants
        and not _is_border(node, makers, readers, outputs)
    ]
    islands: dict[str, str] = {}
    beside: dict[str, str] = {}
    for node in (*between, *(node for node in graph.node if node.op_type in _REORDERS)):
        forwards = node.op_type in ("DequantizeLinear", "ReorderInput")
        floats = {
            origins[other.name]: operators.get(origins[other.name], other.op_type)
            for other in _look_past(node, makers, readers, forwards=forwards)
            if other.op_type not in (*_CONVERSIONS, *_MOVES)
        }
        islands |= {name: operator for name, operator in floats.items() if operator not in _FLOAT}
        beside[node.name] = next(iter(floats), node.name)
    moved = {node.name for node in graph.node if node.op_type in (*_CONVERSIONS, *_REORDERS)}
    kept: Counter[str] = Counter()
    for name, taken in times.items():
        kept[name if name in moved else origins.get(name, name)] += taken
    return Fused(
        operators=dict(sorted(Counter(node.op_type for node in graph.node).items())),
        integer={
            origins[node.name]: not (
                node.op_type in _FLOAT and node.domain in ("", "ai.onnx", "com.microsoft", BLOCKED)
            )
            for node in graph.node
        },
        between=len(between),
        islands=islands,
        conversions=frozenset(node.name for node in between),
        beside=beside,
        times=dict(kept),
    )


def _look_past(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
    *,
    forwards: bool,
) -> list[onnx.NodeProto]:
    """The nodes behind a node, or before it, with none that only changes the layout."""
    near = readers.get(node.output[0], []) if forwards else [makers[name] for name in node.input[:1] if name in makers]
    return [
        far
        for one in near
        for far in (
            _look_past(one, makers, readers, forwards=forwards) if one.op_type in (*_REORDERS, *_MOVES) else [one]
        )
    ]


def _is_border(
    node: onnx.NodeProto,
    makers: dict[str, onnx.NodeProto],
    readers: dict[str, list[onnx.NodeProto]],
    outputs: set[str],
) -> bool:
    """Whether a conversion stands at an input or at an output of the graph (but for a change of layout)."""
    if node.op_type == "QuantizeLinear":
        maker = makers.get(node.input[0])
        return maker is None or (maker.op_type == "Transpose" and maker.input[0] not in makers)
    return node.output[0] in outputs or any(
        reader.op_type in _MOVES and reader.output[0] in outputs for reader in readers.get(node.output[0], [])
    )


def _read_times(path: Path) -> Counter[str]:
    """Nanoseconds by node, in the order in which they ran, but for the first run of each that ran more than once."""
    runs: dict[str, list[int]] = {}
    events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            runs.setdefault(event["name"].removesuffix("_kernel_time"), []).append(int(event["dur"]) * 1000)
    return Counter({name: sum(taken[1:] or taken) for name, taken in runs.items()})
