"""How each metric of a history is called and written."""

from __future__ import annotations

import msgspec


class Metric(msgspec.Struct, frozen=True):
    """A metric's title, what to multiply it by to show it, its decimals, whether its change is a share of the value
    before (or a difference), and whether it is drawn."""

    title: str
    factor: float = 1.0
    decimals: int = 2
    relative: bool = True
    drawn: bool = True


#: In the order of the charts.
METRICS = {
    "latency_ratio": Metric("time over the baseline's", decimals=3),
    "latency_ms": Metric("time of an inference, ms"),
    "sqnr_db": Metric("SQNR, dB", relative=False),
    "top1": Metric("top-1, %", 100.0, 1, relative=False),
    "top1_agreement": Metric("same best class, %", 100.0, 1, relative=False),
    "size_bytes": Metric("file, MB", 1e-6),
    "peak_bytes": Metric("peak memory, MB", 1e-6, 1),
    "energy_mj": Metric("energy of an image, mJ"),
    "top5": Metric("top-5, %", 100.0, 1, relative=False, drawn=False),
    "exact_sqnr_db": Metric("SQNR exact, dB", relative=False, drawn=False),
    "control_ratio": Metric("A/A control", decimals=3, drawn=False),
    "load_ms": Metric("load, ms", decimals=1, drawn=False),
}


def find_metric(name: str) -> Metric:
    """The metric of that name; one that another version wrote is shown as it is."""
    return METRICS.get(name) or Metric(name, decimals=4, drawn=False)


def rank_metric(name: str) -> int:
    """Where a metric stands among the others; one that another version wrote comes last."""
    return list(METRICS).index(name) if name in METRICS else len(METRICS)
