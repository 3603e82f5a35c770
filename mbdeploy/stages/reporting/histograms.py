"""What a calibration saw of each tensor, as saved: its histogram in few bins, its extremes, and the range chosen."""

from __future__ import annotations

import math
from pathlib import Path

import msgspec
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from mbdeploy.quant.calibration_file import load_seen, read_cache
from mbdeploy.stages.reporting.reading import CALIBRATION

_MOST_BINS = 48
#: The size of one drawing, in SVG units.
_WIDTH, _HEIGHT = 192.0, 56.0


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts in equal bins from ``edges[0]`` to ``edges[1]``; ``counts`` is empty where values were not counted."""

    tensor: str
    observed: tuple[float, float]
    edges: tuple[float, float]
    counts: tuple[int, ...]
    chosen: tuple[float, float] | None


def read_histograms(folder: Path) -> list[Histogram]:
    """One histogram a tensor, in the order of the graph; none where no calibration was saved.

    Neighbouring bins are added up until at most ``_MOST_BINS`` are left, so every count stays a sum of saved ones.

    Raises:
        DataError: a calibration that cannot be read.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return []
    seen = load_seen(path)
    whole = seen.whole()
    tensors = seen.identity.tensors
    cache = path.with_name("ranges.json")
    chosen = read_cache(cache, tensors) if cache.is_file() else {}
    found = []
    for tensor in tensors:
        observed = (float(whole.ranges.low[tensor]), float(whole.ranges.high[tensor]))
        edges: tuple[float, float] = observed
        counts: tuple[int, ...] = ()
        if whole.histograms is not None:
            edges, counts = _read_bins(*whole.histograms.read(tensor, observed))
        found.append(Histogram(tensor=tensor, observed=observed, edges=edges, counts=counts, chosen=chosen.get(tensor)))
    return found


def _read_bins(edges: tuple[float, float], counts: NDArray[np.int64]) -> tuple[tuple[float, float], tuple[int, ...]]:
    """The same counts in groups of neighbours; the last group is filled up with empty bins."""
    group = -(-len(counts) // _MOST_BINS) or 1
    filled = np.pad(counts, (0, -len(counts) % group))
    width = (edges[1] - edges[0]) / max(1, len(counts))
    sums = filled.reshape(-1, group).sum(axis=1)
    return (edges[0], edges[0] + width * len(filled)), tuple(int(count) for count in sums)


def draw_histogram(histogram: Histogram) -> Markup:
    """A small drawing: counts on a logarithmic scale, with dashed lines at the ends of the range that was chosen."""
    low, high = histogram.edges
    most = math.log1p(max(histogram.counts, default=0)) or 1.0
    step = _WIDTH / max(1, len(histogram.counts))
    bars = "".join(
        f"M{index * step:.1f} {_HEIGHT:g}v{-_HEIGHT * math.log1p(count) / most:.1f}h{step:.1f}V{_HEIGHT:g}z"
        for index, count in enumerate(histogram.counts)
        if count
    )
    places = [_WIDTH * (end - low) / ((high - low) or 1.0) for end in histogram.chosen or ()]
    lines = "".join(f"M{place:.1f} 0V{_HEIGHT:g}" for place in places if 0 <= place <= _WIDTH)
    return Markup(
        '<svg viewBox="-1 0 {:g} {:g}" aria-hidden="true"><path class="bars" d="{}"/>'
        '<path class="mark" stroke-dasharray="3 2" d="{}"/></svg>'
    ).format(_WIDTH + 2, _HEIGHT, bars, lines)
