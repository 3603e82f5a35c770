"""What a search found: how well latency was predicted, what was tried, and what was measured in the end."""

from __future__ import annotations

from typing import Literal

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.mixing.report import MixReport
from mbdeploy.results import SCHEMA_VERSION, BenchRun
from mbdeploy.searching.target import Verdict
from mbdeploy.swept import Planned

Quality = Literal["top1", "sqnr"]


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A measured network, and what a predictor said that was fitted on all the others."""

    name: str
    measured_ns: float
    predicted_ns: float

    @property
    def error(self) -> float:
        """By which share of the measured time the prediction is too large."""
        return self.predicted_ns / self.measured_ns - 1


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """The predictor of one recipe ("fp32": of none), and how far off it was on networks that it had not seen.

    ``basis`` says what it was fitted on. Errors are absolute, as shares; None where fewer than three networks were
    measured. ``coefficients_ns`` are nanoseconds for each unit of what they are called after.
    """

    recipe: str
    basis: str
    networks: int
    left_out: tuple[LeftOut, ...]
    median_error: float | None
    largest_error: float | None
    coefficients_ns: dict[str, float]


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One variant that the search looked at.

    ``state``: "first" ones are measured to fit the predictor, "built" ones are judged with predicted latency, and
    "skipped" ones are predicted to miss the target by more than the predictor's error, and were not built.
    ``predicted_ns``, ``quality`` and ``rewards`` are by recipe. ``reward`` is the largest of them.
    """

    variant: str
    alpha: float | None
    size: int
    state: Literal["first", "built", "skipped"]
    predicted_ns: dict[str, float]
    quality: dict[str, float]
    rewards: dict[str, float]
    reward: float


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One measured file. ``latency`` is for one image in ns, by ``clock``; ``predicted_ns`` what had been foreseen
    (None for a mix). ``quality`` (0..1) is top-1 on the labelled images, or what the report's ``quality`` says; its
    interval is None where it has none. ``reward`` is by these two. ``keep_float`` are the layers of a mix that stay
    in float. ``on_front``: no other measured file is at least as good and as fast, and better in one."""

    variant: str
    alpha: float | None
    size: int
    recipe: str
    path: str
    sha256: str
    predicted_ns: float | None
    latency: Interval
    clock: str
    quality: float
    top1: Interval | None
    sqnr_db: float
    reward: float
    verdict: Verdict
    size_bytes: int
    keep_float: tuple[str, ...] = ()
    on_front: bool = False


class SearchReport(msgspec.Struct, frozen=True, kw_only=True):
    """A whole search. Only ``rows`` are results: files that were measured; all else was predicted.

    ``optimiser`` is "all" where the space was small enough to look at every variant, else "TPE". ``chosen`` is the row
    to take, by number, and None where no file meets the target, or may. ``runs`` are the raw times of the rows and
    of what the predictor was fitted on. ``mix`` is the search for layers that stay in float.
    """

    plan: tuple[Planned, ...]
    space: int
    target_ns: float
    provider: str
    threads: int
    exponent: float
    hard: bool
    quality: Quality
    data: str | None
    seed: int
    optimiser: str = ""
    fits: tuple[Fit, ...] = ()
    tried: tuple[Tried, ...] = ()
    rows: tuple[Found, ...] = ()
    chosen: int | None = None
    reason: str = ""
    mix: MixReport | None = None
    runs: tuple[BenchRun, ...] = ()
    schema_version: int = SCHEMA_VERSION
