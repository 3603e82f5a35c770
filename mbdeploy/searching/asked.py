"""What a search is asked for, checked and in one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.searching.report import Quality
from mbdeploy.searching.target import compute_reward


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """``trying`` and ``judging`` are keywords of ``evaluate``, for trials and for results; ``timing`` some of
    ``bench``. ``device`` is what times depend on beside the files. ``batch`` variants are built at a time."""

    target_ns: float
    exponent: float
    hard: bool
    quality: Quality
    recipes: tuple[str, ...]
    provider: str
    threads: int
    timing: dict[str, Any]
    device: tuple[str, ...]
    trying: dict[str, Any] | None
    judging: dict[str, Any] | None
    num_trials: int
    num_profiled: int
    num_measured: int
    seed: int
    batch: int
    output: Path

    @property
    def precisions(self) -> tuple[str, ...]:
        """The files of every variant, in their order: FP32 and one a recipe."""
        return ("fp32", *self.recipes)

    def reward(self, quality: float, latency_ns: float) -> float:
        """What a file of this quality and latency is worth."""
        return compute_reward(quality, latency_ns, self.target_ns, self.exponent, hard=self.hard)
