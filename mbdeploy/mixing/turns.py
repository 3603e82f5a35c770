"""Files that took turns in one process: their raw times, and the estimates that follow."""

from __future__ import annotations

import msgspec

from mbdeploy.derive import Clock
from mbdeploy.estimate import Interval, estimate_ratio


class Turns(msgspec.Struct, frozen=True, kw_only=True):
    """Raw times of one process, in ns: ``wall_ns[k][i]`` and ``cpu_ns[k][i]`` are run i of the file ``names[k]``.

    The others are compared with file 0, by ``clock``. Files are called after the mix, or after the move that they
    are one away from it.
    """

    names: tuple[str, ...]
    clock: Clock
    wall_ns: tuple[tuple[int, ...], ...]
    cpu_ns: tuple[tuple[int, ...], ...]


def compare_turns(turns: Turns) -> dict[str, Interval]:
    """Each file's time over that of the first; the interval knows nothing of how processes differ."""
    first, *others = turns.cpu_ns if turns.clock == "cpu" else turns.wall_ns
    return {name: estimate_ratio(first, times) for name, times in zip(turns.names[1:], others, strict=True)}
