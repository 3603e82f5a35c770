"""The guidelines of ShuffleNet v2 (arXiv:1807.11164, section 2) and one more, as rules with evidence."""

from __future__ import annotations

import math

from mbdeploy.costs.report import Evidence, Finding, LayerCost
from mbdeploy.costs.subject import Subject, say, worst_first

#: A 1x1 convolution is reported if so much of what it moves is due to unequal widths. Widths of 1:4 make it 20 %, and
#: cost nothing measurable (benchmarks/guidelines.py); 1:6 make it 30 %.
_UNEQUAL = 0.25
#: As many convolutions on one map as make a block fragmented.
_FRAGMENTS = 3
#: Share of all bytes from which on element-wise work is reported.
_ELEMENTWISE = 0.05
#: Channels that a vector of the smallest CPUs in use holds; and below how many a layer is a stem of its own kind.
_VECTOR, _FEW_CHANNELS = 8, 4
#: Share of a layer's MACs from which on work on empty channels is reported.
_EMPTY = 0.05
_PASSED = ("MaxPool", "AveragePool", "Split", "Slice", "Pad")


def check_widths(subject: Subject) -> Finding | None:
    """G1: at equal MACs, a 1x1 convolution moves least when input and output have the same number of channels."""
    found = []
    extra_bytes = 0
    for layer in subject.counted.layers:
        if layer.kind != "pointwise conv" or not layer.bytes_fp32:
            continue
        cin, cout = layer.inputs[0][1], layer.output[1]
        extra = layer.bytes_fp32 - _equal_width_bytes(layer, cin, cout)
        if extra >= _UNEQUAL * layer.bytes_fp32:
            extra_bytes += round(extra)
            text = f"{cin} -> {cout} channels move {extra / layer.bytes_fp32:.0%} more than equal widths would"
            found.append(Evidence(node=layer.name, text=text, bytes=round(extra), macs=layer.macs))
    if not found:
        return None
    return Finding(
        rule="MB101",
        title="unequal channel widths (G1)",
        summary=f"{say(len(found), '1x1 convolution')} of unequal width: {extra_bytes / 1e6:.2f} MB more "
        f"({extra_bytes / subject.total.bytes_fp32:.0%} of the network) than equal widths of the same MACs",
        change="bring input and output widths of these layers closer together: a smaller expansion factor",
        evidence=worst_first(found),
    )


def check_groups(subject: Subject) -> Finding | None:
    """G2: at equal MACs and input, a group convolution writes more channels and so moves more than a dense one."""
    found = []
    for layer in subject.counted.layers:
        if layer.kind != "grouped conv":
            continue
        # A dense layer of the same input and MACs has cout / g channels (section 2, equation 2).
        extra = round(4 * math.prod(layer.output) * (1 - 1 / layer.groups))
        text = f"{layer.groups} groups: {layer.intensity_fp32:.1f} MACs a byte, dense {_dense_intensity(layer):.1f}"
        found.append(Evidence(node=layer.name, text=text, bytes=extra, macs=layer.macs))
    if not found:
        return None
    extra_bytes = sum(evidence.bytes for evidence in found)
    return Finding(
        rule="MB102",
        title="group convolutions (G2)",
        summary=f"{say(len(found), 'group convolution')}: {extra_bytes / 1e6:.2f} MB more "
        f"({extra_bytes / subject.total.bytes_fp32:.0%} of the network) than dense ones of the same MACs",
        change="use fewer groups with fewer channels; groups are no free way to more channels",
        evidence=worst_first(found),
    )


def check_fragments(subject: Subject) -> Finding | None:
    """G3: several small convolutions on one map run slower than one large one of the same MACs."""
    graph = subject.graph
    by_output = {node.outputs[0]: layer for node, layer in subject.pairs() if node.outputs}
    fragments: dict[str, list[LayerCost]] = {}
    for node, layer in subject.pairs():
        if layer.kind.endswith("conv") and math.prod(layer.output[2:]) > 1:
            tensor = node.inputs[0]
            while (maker := graph.producers.get(tensor)) is not None and maker.operator in _PASSED:
                tensor = maker.inputs[0]
            fragments.setdefault(tensor, []).append(layer)
    found = []
    for tensor, layers in fragments.items():
        if len(layers) < _FRAGMENTS:
            continue
        macs = sum(layer.macs for layer in layers)
        size = graph.bytes_of(tensor, float_bytes=4)
        source = by_output[tensor].name if tensor in by_output else tensor
        text = f"{len(layers)} convolutions read it: {', '.join(layer.name for layer in layers[:4])}"
        found.append(Evidence(node=source, text=text, bytes=(len(layers) - 1) * size, macs=macs))
    if not found:
        return None
    macs = sum(evidence.macs for evidence in found)
    return Finding(
        rule="MB103",
        title="fragmentation (G3)",
        summary=f"{say(len(found), 'map')} read by {_FRAGMENTS} or more convolutions each, which hold "
        f"{macs / subject.total.macs:.0%} of all MACs",
        change="merge parallel branches into one wider convolution where their kernels allow it; it matters most "
        "on GPUs and with many threads",
        evidence=worst_first(found),
    )


def check_elementwise(subject: Subject) -> Finding | None:
    """G4: element-wise work and copies have no MACs but take time: they move bytes."""
    chosen = [layer for layer in subject.counted.layers if layer.kind in ("elementwise", "data movement")]
    found = [
        Evidence(node=layer.name, text=f"{layer.operator} on {_times(layer.output)}", bytes=layer.bytes_fp32)
        for layer in chosen
        if layer.bytes_fp32
    ]
    moved = sum(evidence.bytes for evidence in found)
    share = moved / max(1, subject.total.bytes_fp32)
    if share < _ELEMENTWISE:
        return None
    return Finding(
        rule="MB104",
        title="element-wise work (G4)",
        summary=f"{say(len(found), 'element-wise or copying node')}: {moved / 1e6:.2f} MB, {share:.0%} of the network",
        change="drop shortcuts and shuffles that accuracy does not need; run `mbdeploy simplify`, which folds the rest",
        evidence=worst_first(found),
    )


def check_vectors(subject: Subject) -> Finding | None:
    """Convolutions compute whole vectors of channels: a width that is no multiple of 8 pays for the next one."""
    found, empty = [], 0
    for layer in subject.counted.layers:
        if not layer.kind.endswith("conv") or math.prod(layer.output[2:]) == 1:
            continue
        cin, cout = layer.inputs[0][1] // layer.groups, layer.output[1] // layer.groups
        if layer.kind == "depthwise conv":
            cin, cout = 1, layer.output[1]
        full_in, full_out = _fill(cin) if cin > _FEW_CHANNELS else cin, _fill(cout)
        extra = layer.macs * full_in * full_out // (cin * cout) - layer.macs
        if extra >= _EMPTY * layer.macs:
            empty += extra
            text = f"{cin} -> {cout} channels{' a group' if cin > 1 and layer.groups > 1 else ''} are computed as"
            place = f"{text} {full_in} -> {full_out}: {extra / layer.macs:.0%} more"
            found.append(Evidence(node=layer.name, text=place, macs=extra))
    if not found:
        return None
    return Finding(
        rule="MB105",
        title="channels that fill no vector",
        summary=f"{say(len(found), 'convolution')} with widths that are no multiple of {_VECTOR}: "
        f"{empty / 1e6:.2f} M multiply-adds ({empty / subject.total.macs:.0%} of the network) on nothing",
        change=f"round widths to multiples of {_VECTOR}, better of 16",
        evidence=worst_first(found, key=lambda evidence: evidence.macs),
    )


def _fill(channels: int) -> int:
    return -(-channels // _VECTOR) * _VECTOR


def _equal_width_bytes(layer: LayerCost, cin: int, cout: int) -> float:
    """Bytes of a 1x1 convolution with the same MACs on the same maps whose widths are both sqrt(cin * cout)."""
    width = math.sqrt(cin * cout)
    places = math.prod(layer.inputs[0]) / cin + math.prod(layer.output) / cout
    return 4 * (places * width + width * width + (layer.parameters - layer.weights))


def _dense_intensity(layer: LayerCost) -> float:
    written = math.prod(layer.output) / layer.groups
    return layer.macs / (4 * (math.prod(layer.inputs[0]) + written + layer.weights))


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape[1:]))
