"""What ``inspect`` found, as plain facts (costs by layer, memory, blocks, findings), without numpy and onnx."""

from __future__ import annotations

import msgspec

from mbdeploy.results import Host

SCHEMA_VERSION = 1
Shape = tuple[int, ...]

#: Kinds of work, in the order in which they are shown.
KINDS = (
    "standard conv",
    "depthwise conv",
    "pointwise conv",
    "grouped conv",
    "gemm",
    "elementwise",
    "pooling",
    "data movement",
)


class LayerCost(msgspec.Struct, frozen=True, kw_only=True):
    """One executed node. One multiply-add is one MAC; padding counts, bias additions do not.

    ``weights`` are the constants that MACs multiply; ``parameters`` are these and all else that was
    learned (biases, scales and shifts). Bytes are every tensor read once and written once, with all of
    them in float32, or in int8 with int32 biases. ``fused``: an activation or batch norm that runs inside
    the layer before it and moves no bytes of its own. ``live_*`` are the activations in memory while it runs.
    """

    name: str
    operator: str
    kind: str
    inputs: tuple[Shape, ...]
    output: Shape
    kernel: Shape
    strides: Shape
    groups: int
    macs: int
    weights: int
    parameters: int
    bytes_fp32: int
    bytes_int8: int
    live_fp32_bytes: int
    live_int8_bytes: int
    fused: bool

    @property
    def intensity_fp32(self) -> float:
        """MACs per byte moved, in float32; 0 where nothing is moved."""
        return self.macs / self.bytes_fp32 if self.bytes_fp32 else 0.0

    @property
    def intensity_int8(self) -> float:
        """MACs per byte moved, in int8; 0 where nothing is moved."""
        return self.macs / self.bytes_int8 if self.bytes_int8 else 0.0


class Total(msgspec.Struct, frozen=True, kw_only=True):
    """Layers added up, of one ``kind`` or of all. A weight that several layers use counts once."""

    kind: str
    layers: int
    macs: int
    weights: int
    parameters: int
    bytes_fp32: int
    bytes_int8: int


class Uncounted(msgspec.Struct, frozen=True, kw_only=True):
    """A node about whose cost nothing is known, and why; it is in no sum."""

    name: str
    operator: str
    reason: str


class SeparableBlock(msgspec.Struct, frozen=True, kw_only=True):
    """A depthwise convolution and the 1x1 after it, beside the standard convolution that they stand for.

    ``ratio`` is MACs over ``standard_macs``; ``formula`` is 1/N + 1/D^2 (MobileNets, section 3.1) for N
    output channels and a kernel of D^2 elements.
    """

    depthwise: str
    pointwise: str
    kernel: Shape
    channels: tuple[int, int]
    macs: int
    standard_macs: int
    weights: int
    standard_weights: int
    ratio: float
    formula: float


class StandardNetwork(msgspec.Struct, frozen=True, kw_only=True):
    """The whole network with a standard convolution in place of every separable block."""

    macs: int
    weights: int
    macs_ratio: float
    weights_ratio: float


class PeakMemory(msgspec.Struct, frozen=True, kw_only=True):
    """Most activation bytes alive at once in execution order, and the node that runs then; weights are apart.

    Activations run in place, views cost nothing, every other node has an output of its own. In a
    quantized file ``int8_bytes`` counts what stays in float at four bytes.
    """

    fp32_bytes: int
    fp32_node: str
    int8_bytes: int
    int8_node: str


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """One place that a finding is about: the node, what was found there, and the bytes or MACs at stake."""

    node: str
    text: str
    bytes: int = 0
    macs: int = 0


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found: one sentence with numbers, what to change, and the places, the worst first."""

    rule: str
    title: str
    summary: str
    change: str
    evidence: tuple[Evidence, ...]


class Peaks(msgspec.Struct, frozen=True, kw_only=True):
    """What one thread of a machine reached: 10^9 MACs a second, and 10^9 bytes a second by working set in bytes."""

    gmacs_fp32: float
    gmacs_int8: float
    gbytes: tuple[tuple[int, float], ...]
    host: Host


class Bound(msgspec.Struct, frozen=True, kw_only=True):
    """The time in microseconds that a layer cannot go below at the measured peaks; the larger of the two binds."""

    layer: str
    compute_us: float
    memory_us: float

    @property
    def limit_us(self) -> float:
        """The time it cannot go below."""
        return max(self.compute_us, self.memory_us)

    @property
    def by(self) -> str:
        """What binds it."""
        return "compute" if self.compute_us >= self.memory_us else "memory"


class Roofline(msgspec.Struct, frozen=True, kw_only=True):
    """Measured peaks of one host and every layer's bound under them, in the precision of the file."""

    precision: str
    peaks: Peaks
    bounds: tuple[Bound, ...]


class SweepCell(msgspec.Struct, frozen=True, kw_only=True):
    """One network of a sweep: width multiplier, input pixels a side, MACs and weights."""

    alpha: float
    size: int
    macs: int
    weights: int


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """A card's network over width and resolution, counted in torch without running it."""

    card: str
    alpha: float
    size: int
    cells: tuple[SweepCell, ...]


class InspectReport(msgspec.Struct, frozen=True, kw_only=True):
    """All that ``inspect`` found out about one file, for one batch of ``batch`` images.

    ``folded`` counts nodes that compute on constants and sizes alone, which runtimes do once at load;
    ``quantizers`` the Q and DQ nodes, which are seen through. ``ignored`` are the rules that were switched off.
    """

    model: str
    size_bytes: int
    opset: int
    precision: str
    batch: int
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    nodes: int
    folded: int
    quantizers: int
    total: Total
    kinds: tuple[Total, ...]
    layers: tuple[LayerCost, ...]
    uncounted: tuple[Uncounted, ...]
    blocks: tuple[SeparableBlock, ...]
    memory: PeakMemory
    findings: tuple[Finding, ...]
    ignored: tuple[str, ...] = ()
    standard: StandardNetwork | None = None
    roofline: Roofline | None = None
    sweep: Sweep | None = None
    schema_version: int = SCHEMA_VERSION
