"""What a sweep found: one row a file, provider and number of threads; the front; and how far MACs mislead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import combinations, groupby

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.results import SCHEMA_VERSION, BenchRun


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One file on one provider. ``latency_ns`` is the median for one image by ``clock``; ``ratio`` its time over the
    variant's optimised FP32 (None for that itself). ``sqnr_db`` is against torch. ``on_front`` says that no other row
    of the same provider and threads is as good in all of quality, latency, size and peak memory, and better in one."""

    variant: str
    alpha: float | None
    size: int
    recipe: str
    provider: str
    threads: int
    macs: int
    parameters: int
    sqnr_db: float
    top1: Interval | None
    latency_ns: float
    clock: str
    ratio: Interval | None
    size_bytes: int
    peak_bytes: int
    on_front: bool = False


class Misled(msgspec.Struct, frozen=True, kw_only=True):
    """How MACs order the variants of one recipe against how measured latency does.

    Of ``pairs`` whose MACs differ, ``wrong`` are slower with fewer MACs. The worst of them: ``fewer`` has
    ``macs_ratio`` of the MACs of ``more`` and takes ``time_ratio`` of its time. ``spread`` is the largest time for a
    MAC over the smallest.
    """

    recipe: str
    provider: str
    threads: int
    pairs: int
    wrong: int
    spread: float
    fewer: str = ""
    more: str = ""
    macs_ratio: float = math.nan
    time_ratio: float = math.nan


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the plan: ``kept`` from an earlier run, else what earlier runs let expect (None: nothing)."""

    name: str
    kept: bool
    expected_s: float | None


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep: its plan, its rows, and the raw times behind them; no rows of one that was only planned.

    ``quality`` says what the front takes for it: top1 where every row has it, else sqnr_db.
    """

    plan: tuple[Planned, ...]
    rows: tuple[Row, ...] = ()
    misled: tuple[Misled, ...] = ()
    quality: str = "sqnr_db"
    runs: tuple[BenchRun, ...] = ()
    schema_version: int = SCHEMA_VERSION


def mark_front(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows, each told whether it is on the front of its provider and threads; and what quality is."""
    quality = "top1" if rows and all(row.top1 is not None for row in rows) else "sqnr_db"

    def cost(row: Row) -> tuple[float, ...]:
        good = row.top1.value if quality == "top1" and row.top1 else row.sqnr_db
        return (-good, row.latency_ns, row.size_bytes, row.peak_bytes)

    def is_beaten(row: Row) -> bool:
        rivals = (cost(one) for one in rows if (one.provider, one.threads) == (row.provider, row.threads))
        own = cost(row)
        return any(rival != own and all(a <= b for a, b in zip(rival, own, strict=True)) for rival in rivals)

    return [msgspec.structs.replace(row, on_front=not is_beaten(row)) for row in rows], quality


def judge_macs(rows: Iterable[Row]) -> list[Misled]:
    """For each recipe, provider and number of threads with two variants or more: what MACs say of time."""

    def name(row: Row) -> tuple[str, str, int]:
        return row.recipe, row.provider, row.threads

    found = []
    for (recipe, provider, threads), group in groupby(sorted(rows, key=name), key=name):
        members = list(group)
        pairs = [sorted(pair, key=lambda row: row.macs) for pair in combinations(members, 2)]
        pairs = [pair for pair in pairs if pair[0].macs < pair[1].macs]
        if not pairs:
            continue
        wrong = [pair for pair in pairs if pair[0].latency_ns > pair[1].latency_ns]
        each = [row.latency_ns / row.macs for row in members if row.macs]
        misled = Misled(
            recipe=recipe,
            provider=provider,
            threads=threads,
            pairs=len(pairs),
            wrong=len(wrong),
            spread=max(each, default=math.nan) / min(each, default=math.nan),
        )
        if wrong:
            fewer, more = max(wrong, key=lambda pair: pair[0].latency_ns / pair[1].latency_ns)
            misled = msgspec.structs.replace(
                misled,
                fewer=fewer.variant,
                more=more.variant,
                macs_ratio=fewer.macs / more.macs,
                time_ratio=fewer.latency_ns / more.latency_ns,
            )
        found.append(misled)
    return found
