"""The roofline: what every layer's time cannot go below, given measured peaks; Williams et al., CACM 52(4), 2009."""

from __future__ import annotations

from mbdeploy.costs.report import Bound, InspectReport, Peaks, Roofline


def bound_layers(report: InspectReport, peaks: Peaks) -> Roofline:
    """Every layer's compute and memory bound, in the precision of the file (float16 is judged as float32).

    Rules: 1. MACs go at the measured peak. 2. Bytes go at the bandwidth of the largest measured working set
    that is no larger than the layer's own traffic, because small layers stay in a cache. 3. Layers that
    neither multiply nor move anything have no bound.
    """
    is_int8 = report.precision == "int8"
    gmacs = peaks.gmacs_int8 if is_int8 else peaks.gmacs_fp32
    bounds = []
    for layer in report.layers:
        size_bytes = layer.bytes_int8 if is_int8 else layer.bytes_fp32
        if layer.macs or size_bytes:  # 3.
            gbytes = find_bandwidth(peaks, size_bytes)
            bounds.append(
                Bound(layer=layer.name, compute_us=layer.macs / gmacs / 1e3, memory_us=size_bytes / gbytes / 1e3)
            )
    return Roofline(precision="int8" if is_int8 else "fp32", peaks=peaks, bounds=tuple(bounds))


def find_bandwidth(peaks: Peaks, size_bytes: int) -> float:
    """10^9 bytes a second for so much traffic: never less than any larger working set reached."""
    fitting = [index for index, (size, _) in enumerate(peaks.gbytes) if size <= size_bytes]
    start = fitting[-1] if fitting else 0
    return max(gbytes for _, gbytes in peaks.gbytes[start:])
