"""What a search over mixed precision found: effects of single choices, measured mixes, and the one that was taken."""

from __future__ import annotations

from typing import Literal

import msgspec

from mbdeploy.calls import Call
from mbdeploy.derive import Verdict
from mbdeploy.estimate import Interval
from mbdeploy.mixing.turns import Turns
from mbdeploy.results import SCHEMA_VERSION, BenchRun, Check, Host, ModelRef

Kind = Literal["layer", "block", "first", "last", "squeeze", "depthwise"]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that go to float together: one ``layer``, a residual ``block``, the ``first`` or ``last`` ones of the
    network, the ``squeeze``-and-excite branches, or all ``depthwise`` ones. ``layers`` are names of nodes."""

    name: str
    kind: Kind
    layers: tuple[str, ...]


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """What a move does on its own, all else being equal.

    ``ratio`` is the time with these layers in float over the time with all in INT8, conversions included.
    ``spared_db`` is the SQNR of the outputs with these layers in float and the rest in INT8, ``alone_db`` that with
    these in INT8 and the rest in float.
    """

    move: Move
    ratio: Interval
    spared_db: float
    alone_db: float


class Goals(msgspec.Struct, frozen=True, kw_only=True):
    """What the user asks for: top-1 points that may be lost, SQNR in dB, time over optimised FP32; None: no matter."""

    max_drop: float | None = None
    min_sqnr: float | None = None
    target_ratio: float | None = None


class Mix(msgspec.Struct, frozen=True, kw_only=True):
    """One mixed file as measured: ``keep_float`` names its float layers.

    ``ratio`` is its time over optimised FP32's: of one that was quantized in full by its run in several processes, else
    by one process, an estimate. ``drop`` is the top-1 it loses, in points; where images have no labels
    it is the share of images whose first class is another than FP32's, which no loss can exceed. It follows from
    ``lost`` and ``gained``, the images that only FP32 and only the mix gets right; without labels all that changed are
    lost. ``reward`` is
    ACC (LAT / TAR)^-0.07 of MnasNet (Tan et al., arXiv:1807.11626, eq. 2 and 3), with 1 - drop as accuracy.
    """

    name: str
    keep_float: tuple[str, ...]
    ratio: Interval
    sqnr_db: float
    drop: Interval
    size_bytes: int
    reward: float
    on_front: bool
    lost: int = 0
    gained: int = 0


class MixReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole search. ``chosen`` is None where no mix reaches the goals: then the float file is what to ship.

    ``mixes`` start with all in INT8, which comes first in ``turns`` where moves were timed, and optimised FP32 where
    mixes were: their raw times, from which the ratios of ``effects`` and ``mixes`` follow. Like the
    ``effects`` the mixes are without what the recipe fits to its inputs, which
    would be another in each. ``made`` are those that were then quantized in full and measured again, in this order;
    the last one is ``final`` if it was written. ``timed`` holds the run of each of these against optimised FP32, by its
    name: series 1 is the mix. ``verdict`` is what :func:`mbdeploy.mixing.verdict.judge_search` makes of all this.
    ``call`` asks for it again (None: not recorded).
    """

    model: ModelRef
    provider: str
    threads: int
    host: Host
    data: str
    images: int
    labelled: bool
    held_out: bool
    goals: Goals
    effects: tuple[Effect, ...]
    mixes: tuple[Mix, ...]
    made: tuple[Mix, ...]
    chosen: str | None
    reason: str
    final: Mix | None
    checks: tuple[Check, ...]
    turns: tuple[Turns, ...] = ()
    timed: dict[str, BenchRun] = {}
    verdict: Verdict | None = None
    call: Call | None = None
    schema_version: int = SCHEMA_VERSION
