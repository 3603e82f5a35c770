"""Layers by hand, and a machine whose times follow a known law."""

from __future__ import annotations

from collections.abc import Sequence

from mbdeploy.costs.report import LayerCost
from mbdeploy.searching.predictor import Measured


def make_layer(
    name: str, kind: str = "pointwise conv", *, macs: int = 16, size: int = 64, weights: int = 4
) -> LayerCost:
    return LayerCost(
        name=name,
        operator="Conv",
        kind=kind,
        inputs=((1, 16, 4, 4),),
        output=(1, 16, 4, 4),
        kernel=(1, 1),
        strides=(1, 1),
        groups=16 if kind == "depthwise conv" else 1,
        macs=macs,
        weights=weights,
        parameters=weights,
        bytes_fp32=4 * size,
        bytes_int8=size,
        live_fp32_bytes=0,
        live_int8_bytes=0,
        fused=False,
    )


def make_network(scale: int) -> tuple[LayerCost, ...]:
    """Three layers whose work grows unlike with ``scale``."""
    return (
        make_layer("stem", "standard conv", macs=1600 * scale, size=100 * scale * scale, weights=30),
        make_layer("deep", "depthwise conv", macs=800 * scale * scale, size=300 * scale, weights=20 * scale),
        make_layer("last", "pointwise conv", macs=3200 * scale + 16, size=77 * scale, weights=500 * scale),
    )


def take_ns(layer: LayerCost) -> float:
    """The law: so many ns a MAC by kind, and a constant."""
    return {"standard conv": 2.0, "depthwise conv": 5.0, "pointwise conv": 1.0}[layer.kind] * layer.macs + 250.0


def measure_network(name: str, layers: Sequence[LayerCost], *, profiled: bool = True) -> Measured:
    """The network as the law has it, 1000 ns outside its layers; the profiler makes everything twice as slow."""
    total_ns = sum(map(take_ns, layers)) + 1000.0
    return Measured(
        name=name,
        layers=tuple(layers),
        latency_ns=total_ns,
        layers_us={layer.name: 2 * take_ns(layer) / 1e3 for layer in layers} if profiled else None,
        profile_us=2 * total_ns / 1e3 if profiled else 0.0,
    )
