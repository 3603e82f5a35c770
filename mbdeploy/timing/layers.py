"""A profile's nodes beside the layers they came from: time, work, share of the roofline; and two files compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike

from mbdeploy.costs.report import InspectReport, LayerCost, Roofline

Kind = Literal["layer", "float island", "conversion", "other"]

#: Changes of type or of layout, which compute nothing.
_CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "Cast", "ReorderInput", "ReorderOutput", "Transpose"}
#: Channels that a blocked layout keeps together, at most.
_BLOCK = 16
_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
#: What ONNX Runtime's optimisers put before an operator's name, and behind a node's.
_PREFIXES = re.compile(r"^(?:com\.microsoft::|QLinear|Dynamic|Nhwc|Fused|Q(?=Gemm))+")
_SUFFIXES = re.compile(r"(?:_nchwc|_token_\d+|_quant|_output_0|/duplicated|_nhwc)+$")


class LayerTime(msgspec.Struct, frozen=True, kw_only=True):
    """One node as it ran: ``us`` is the mean of the middle half of ``samples_us``, one a run.

    ``layer`` is the layer of the file that it is, empty if the runtime put it in; ``macs`` and ``size_bytes`` are that
    layer's work and traffic, ``limit_us`` what the roofline lets it take at least (None where none was measured).
    """

    name: str
    operator: str
    kind: Kind
    type: str
    us: float
    samples_us: tuple[int, ...]
    layer: str = ""
    macs: int = 0
    size_bytes: int = 0
    shape: tuple[int, ...] = ()
    limit_us: float | None = None

    @property
    def gmacs(self) -> float | None:
        """10^9 multiply-adds a second."""
        return self.macs / self.us / 1e3 if self.macs and self.us else None

    @property
    def gbytes(self) -> float | None:
        """10^9 bytes a second, of the tensors that the layer reads and writes."""
        return self.size_bytes / self.us / 1e3 if self.size_bytes and self.us else None

    @property
    def share_of_roof(self) -> float | None:
        """How near it comes to what this machine can do, 0..1."""
        return self.limit_us / self.us if self.limit_us and self.us else None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A layer of the first file and what it became in the second; None where one has nothing like it."""

    first: LayerTime | None
    second: LayerTime | None

    @property
    def us(self) -> float:
        """By how much longer the second takes."""
        return (self.second.us if self.second else 0.0) - (self.first.us if self.first else 0.0)


def join_layers(nodes: Sequence[Any], report: InspectReport, roofline: Roofline | None) -> tuple[LayerTime, ...]:
    """Every profiled node (as :class:`mbdeploy.targets.job.Ran` has them) with its layer's costs.

    Rules: 1. a node is the layer of its name, without what optimisers add; one called after an activation is the
    layer that this runs inside of. 2. Else it is the first layer left of its operator and output shape, in the order
    of execution. 3. What is left changes types or layouts, or is the runtime's own.
    """
    hosts = _find_hosts(report.layers)
    limits = {bound.layer: bound.limit_us for bound in roofline.bounds} if roofline else {}
    left = {layer.name: layer for layer in report.layers if not layer.fused}
    found: dict[int, LayerCost] = {}
    for index, (name, operator, *_, shapes, _) in enumerate(nodes):  # 1.
        host = hosts.get(_SUFFIXES.sub("", name)) or hosts.get(name)
        if host and host.name in left and _are_alike(host, operator, shapes):
            found[index] = left.pop(host.name)
    for index, (_, operator, *_, shapes, _) in enumerate(nodes):  # 2.
        if index not in found:
            layer = next((layer for layer in left.values() if _are_alike(layer, operator, shapes)), None)
            if layer is not None:
                found[index] = left.pop(layer.name)
    quantized = report.precision == "int8"
    return tuple(_make_row(node, found.get(index), quantized, limits) for index, node in enumerate(nodes))


def compare_layers(first: Sequence[LayerTime], second: Sequence[LayerTime]) -> tuple[Difference, ...]:
    """Both files' rows as pairs: by the layer's name, else by its work and shape in order; the second's others last.

    The differences add up to that of both sums.
    """
    keys: tuple[Callable[[LayerTime], object], ...] = (
        lambda row: row.layer or None,
        lambda row: (row.macs, row.shape) if row.macs else None,
    )
    pairs: dict[int, LayerTime] = {}
    left = list(second)
    for key in keys:
        for index, row in enumerate(first):
            wanted = key(row)
            if index in pairs or wanted is None:
                continue
            partner = next((other for other in left if key(other) == wanted), None)
            if partner is not None:
                pairs[index] = partner
                left.remove(partner)
    return (
        *(Difference(first=row, second=pairs.get(index)) for index, row in enumerate(first)),
        *(Difference(first=None, second=row) for row in left),
    )


def sum_us(rows: Iterable[LayerTime]) -> float:
    """Microseconds of all rows together."""
    return sum(row.us for row in rows)


def measure_gap(wall_ns: Sequence[int], rows: Sequence[LayerTime]) -> float:
    """Microseconds of a run that no node took, each run for itself; a node that some runs leave out counts in none."""
    whole = [row.samples_us for row in rows if len(row.samples_us) == len(wall_ns)]
    return _take_middle(
        np.asarray(wall_ns) / 1e3 - np.sum(np.array(whole, np.float64).reshape(-1, len(wall_ns)), axis=0)
    )


def _find_hosts(layers: Sequence[LayerCost]) -> dict[str, LayerCost]:
    """Every layer's name and the layer that it is or runs inside of: the last one before it of the same shape."""
    hosts: dict[str, LayerCost] = {}
    latest: dict[tuple[int, ...], LayerCost] = {}
    for layer in layers:
        if not layer.fused:
            hosts[layer.name] = latest[layer.output] = layer
        elif layer.output in latest:
            hosts[layer.name] = latest[layer.output]
    return hosts


def _are_alike(layer: LayerCost, operator: str, shapes: Sequence[Sequence[int]]) -> bool:
    """Whether a node of this operator may be the layer.

    Layouts differ, so sizes are compared in any order; blocked ones (NCHWc) round channels up.
    """
    if _PREFIXES.sub("", layer.operator) != _PREFIXES.sub("", operator):
        return False
    shape, output = tuple(shapes[0] if shapes else ()), layer.output
    if sorted(output) == sorted(shape):
        return True
    blocked = len(shape) == len(output) == 4 and (shape[0], *shape[2:]) == (output[0], *output[2:])
    return blocked and 0 <= shape[1] - output[1] < _BLOCK


def _make_row(node: Sequence[Any], layer: LayerCost | None, quantized: bool, limits: dict[str, float]) -> LayerTime:
    name, operator, _, type_name, _, samples = node
    kind: Kind = "layer" if layer else "other"
    if not layer and operator in _CONVERSIONS:
        kind = "conversion"
    elif quantized and type_name.startswith("float") and operator not in _VIEWS | _CONVERSIONS:
        kind = "float island"
    row = LayerTime(
        name=name, operator=operator, kind=kind, type=type_name, us=_take_middle(samples), samples_us=tuple(samples)
    )
    if layer is None:
        return row
    return msgspec.structs.replace(
        row,
        layer=layer.name,
        macs=layer.macs,
        size_bytes=layer.bytes_int8 if quantized else layer.bytes_fp32,
        shape=layer.output,
        limit_us=limits.get(layer.name),
    )


def _take_middle(samples: ArrayLike) -> float:
    """The interquartile mean: as hard to disturb as the median, and finer than the clock's microsecond."""
    ordered = np.sort(np.asarray(samples, np.float64))
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean()) if len(ordered) else 0.0
