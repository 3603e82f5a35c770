"""Do the guidelines behind rules MB101 to MB105 hold here? Blocks of equal MACs, timed against each other.

    python benchmarks/guidelines.py [--pairs 100] [--size 56] [--channels 64] [--guideline G1]

G1 to G4: stacks of ten blocks that follow or break a guideline of ShuffleNet v2, as in tables 1 to 4 of
arXiv:1807.11164 (MACs are equal up to rounding of channels). Convolutions compute channels in blocks of 8 or 16, so
that stacks whose widths are not all multiples of 16 ("uneven") also pay for blocks that they do not fill; W measures
that alone. ONNX Runtime's CPU provider, one thread, float32, batch 1. The two take turns (A B B A); the figure is the
median over pairs of CPU time broken / followed per MAC, with its quartiles. Beside it stands the ratio of bytes that
`mbdeploy inspect` counts.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.costs.inspection import inspect_model

BLOCKS = 10


class Stack:
    """A network of convolutions by hand: nodes are appended, `last` is the tensor that the next one reads."""

    def __init__(self, channels: int, size: int) -> None:
        self.channels, self.size = channels, size
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)
        self.width = channels
        self.last = "x"

    def conv(self, cout: int, *, kernel: int = 1, groups: int = 1, source: str | None = None) -> str:
        name = f"t{len(self.nodes)}"
        scale = (2 / (kernel * kernel * self.width / groups)) ** 0.5
        weight = self.rng.normal(0, scale, (cout, self.width // groups, kernel, kernel)).astype(np.float32)
        self.weights.append(numpy_helper.from_array(weight, f"{name}_w"))
        pads = [kernel // 2] * 4
        inputs = [source or self.last, f"{name}_w"]
        self.nodes.append(helper.make_node("Conv", inputs, [name], name, group=groups, pads=pads))
        if source is None:
            self.last, self.width = name, cout
        return name

    def apply(self, operator: str, *inputs: str) -> None:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs) or [self.last], [name], name))
        self.last = name

    def finish(self) -> onnx.ModelProto:
        image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, self.channels, self.size, self.size])
        output = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, [1, self.width, self.size, self.size])
        graph = helper.make_graph(self.nodes, "stack", [image], [output], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def make_widths(channels: int, size: int, ratio: int) -> onnx.ModelProto:
    """G1, table 1: pairs of 1x1 convolutions c1 -> c2 -> c1 with c2 = ratio x c1."""
    first = round(channels / ratio**0.5)
    stack = Stack(first, size)
    for _ in range(BLOCKS):
        stack.conv(first * ratio)
        stack.conv(first)
    return stack.finish()


def make_plain(width: int, size: int) -> onnx.ModelProto:
    """W: 1x1 convolutions of one width."""
    stack = Stack(width, size)
    for _ in range(2 * BLOCKS):
        stack.conv(width)
    return stack.finish()


def make_groups(channels: int, size: int, groups: int) -> onnx.ModelProto:
    """G2, table 2: 1x1 group convolutions, with more channels for more groups."""
    width = round(channels * groups**0.5 / groups) * groups
    stack = Stack(width, size)
    for _ in range(2 * BLOCKS):
        stack.conv(width, groups=groups)
    return stack.finish()


def make_fragments(channels: int, size: int, count: int, *, parallel: bool) -> onnx.ModelProto:
    """G3, table 3: 1 to 4 1x1 convolutions a block, in a row or side by side and added up."""
    width = round(channels / count**0.5)
    stack = Stack(width, size)
    for _ in range(2 * BLOCKS):
        if not parallel:
            for _ in range(count):
                stack.conv(width)
            continue
        source = stack.last
        branches = [stack.conv(width, source=source) for _ in range(count)]
        stack.last = branches[0]
        for branch in branches[1:]:
            stack.apply("Add", stack.last, branch)
    return stack.finish()


def make_bottlenecks(channels: int, size: int, *, relu: bool, shortcut: bool) -> onnx.ModelProto:
    """G4, table 4: bottleneck units 1x1, 3x3, 1x1, with and without ReLU and shortcut."""
    stack = Stack(channels, size)
    for _ in range(BLOCKS):
        source = stack.last
        for cout, kernel in ((channels // 2, 1), (channels // 2, 3), (channels, 1)):
            stack.conv(cout, kernel=kernel)
            if relu and (kernel == 3 or cout != channels):
                stack.apply("Relu")
        if shortcut:
            stack.apply("Add", stack.last, source)
        if relu:
            stack.apply("Relu")
    return stack.finish()


Make = Callable[[int, int], onnx.ModelProto]
#: By guideline: the name of each stack and how it is made; the first follows the guideline.
COMPARISONS: dict[str, list[tuple[str, Make]]] = {
    "G1": [
        (f"c1:c2 = 1:{ratio}", lambda c, s, ratio=ratio: make_widths(c, s, ratio)) for ratio in (1, 2, 4, 6, 12, 16)
    ],
    "W": [(f"{more:+d} channels", lambda c, s, more=more: make_plain(c + more, s)) for more in (0, -6, 2, 8, 16)],
    "G2": [(f"{groups} groups", lambda c, s, groups=groups: make_groups(c, s, groups)) for groups in (1, 2, 4, 8, 16)],
    "G3": [
        ("1 fragment", lambda c, s: make_fragments(c, s, 1, parallel=False)),
        ("2 in series", lambda c, s: make_fragments(c, s, 2, parallel=False)),
        ("4 in series", lambda c, s: make_fragments(c, s, 4, parallel=False)),
        ("2 in parallel", lambda c, s: make_fragments(c, s, 2, parallel=True)),
        ("4 in parallel", lambda c, s: make_fragments(c, s, 4, parallel=True)),
        ("16 in parallel", lambda c, s: make_fragments(c, s, 16, parallel=True)),
    ],
    "G4": [
        ("no ReLU, no shortcut", lambda c, s: make_bottlenecks(c, s, relu=False, shortcut=False)),
        ("ReLU", lambda c, s: make_bottlenecks(c, s, relu=True, shortcut=False)),
        ("shortcut", lambda c, s: make_bottlenecks(c, s, relu=False, shortcut=True)),
        ("ReLU and shortcut", lambda c, s: make_bottlenecks(c, s, relu=True, shortcut=True)),
    ],
}


def open_session(model: onnx.ModelProto) -> Callable[[], object]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    shape = [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim]
    image = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
    return lambda: session.run(None, {"x": image})


def time_once(run: Callable[[], object]) -> int:
    start = time.thread_time_ns()
    run()
    return time.thread_time_ns() - start


def compare(followed: Callable[[], object], broken: Callable[[], object], pairs: int) -> list[float]:
    """Ratios broken / followed of CPU time, in pairs taken A B B A."""
    for run in (followed, broken, followed, broken):
        run()
    ratios = []
    for index in range(pairs):
        first, second = (followed, broken) if index % 2 == 0 else (broken, followed)
        one, other = time_once(first), time_once(second)
        ratios.append(other / one if index % 2 == 0 else one / other)
    return ratios


def describe_widths(model: onnx.ModelProto) -> str:
    """Whether every convolution has a multiple of 16 channels in and out of each group."""
    sides = [axis for weight in model.graph.initializer for axis in weight.dims[:2]]
    return "uneven" if any(side % 16 for side in sides) else "of 16"


def name_cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--size", type=int, default=56, help="height and width of every map")
    parser.add_argument("--channels", type=int, default=64, help="channels of the stack that follows the guideline")
    parser.add_argument("--guideline", choices=COMPARISONS, action="append")
    arguments = parser.parse_args()
    print(f"{name_cpu()}, ONNX Runtime {onnxruntime.__version__}, 1 thread, {arguments.channels} x {arguments.size}^2")
    print(f"{'':4}{'broken against followed':24}{'time':>7}{'quartiles':>16}{'n':>5}{'bytes':>8}{'MACs':>8}  widths")
    for guideline in arguments.guideline or COMPARISONS:
        (_, make), *others = COMPARISONS[guideline]
        model = make(arguments.channels, arguments.size)
        base, followed = inspect_model(model, name="", size_bytes=0).total, open_session(model)
        for name, make_other in others:
            other_model = make_other(arguments.channels, arguments.size)
            other = inspect_model(other_model, name="", size_bytes=0).total
            macs = other.macs / base.macs
            ratios = [ratio / macs for ratio in compare(followed, open_session(other_model), arguments.pairs)]
            low, middle, high = statistics.quantiles(ratios, n=4)
            moved = other.bytes_fp32 / base.bytes_fp32
            row = f"{guideline:4}{name:24}{middle:7.2f}{low:9.2f}..{high:.2f}{len(ratios):8}{moved:8.2f}{macs:8.3f}"
            print(f"{row}  {describe_widths(other_model)}", flush=True)


if __name__ == "__main__":
    main()
