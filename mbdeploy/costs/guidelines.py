"""The four guidelines of ShuffleNet v2 as rules with evidence; https://arxiv.org/abs/1807.11164, section 2."""

from __future__ import annotations

import math

from mbdeploy.costs.report import Evidence, Finding, LayerCost
from mbdeploy.costs.subject import Subject, say, worst_first

#: A 1x1 convolution is reported if it moves this much more than one of equal widths would.
_UNEQUAL = 0.10
#: As many convolutions on one map as make a block fragmented.
_FRAGMENTS = 3
#: Share of all bytes from which on element-wise work is reported.
_ELEMENTWISE = 0.05
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
        change="merge parallel branches into one wider convolution where their kernels allow it",
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
