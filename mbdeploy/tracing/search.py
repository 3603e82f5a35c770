"""Find the first of an ordered list that fails, from few probes, and the one whose own sources all hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

#: How many places are probed at once: one job of a target holds them all, and starting it is what costs.
WIDTH = 8

Probe = Callable[[Sequence[int]], Mapping[int, bool]]


def find_first(count: int, probe: Probe, sources: Sequence[Sequence[int]]) -> int | None:
    """The place that fails although every place that it is made from holds; None if the last one does not fail.

    ``probe`` tells of places in 0..count-1 whether they fail; ``sources[k]`` are those, before k, that k is made from.

    Rules: 1. places between one that holds and one that fails are probed until two neighbours remain. 2. Failures need
    not be monotone, and a graph is no line: if a source of the place found fails, the search goes on there.
    """
    known: dict[int, bool] = {}

    def ask(places: Sequence[int]) -> None:
        new = [place for place in places if place not in known]
        known.update(probe(new) if new else {})

    ask([count - 1])
    if not known[count - 1]:
        return None
    low, high = -1, count - 1
    while high - low > 1:
        step = (high - low) / (WIDTH + 1)
        places = sorted({low + max(1, round(step * k)) for k in range(1, WIDTH + 1)} & set(range(low + 1, high)))
        ask(places)
        high = next((place for place in places if known[place]), high)
        low = max((place for place in places if place < high), default=low)
    while True:
        ask(sources[high])
        failing = [place for place in sources[high] if known[place]]
        if not failing:
            return high
        high = min(failing)
