"""What a sweep found: one row a file, provider and number of threads; the front; and how far MACs mislead."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, groupby, islice
from typing import Any

import msgspec

from mbdeploy.derive import choose_clock, compare_series, read_times
from mbdeploy.estimate import Interval
from mbdeploy.pareto import is_beaten
from mbdeploy.results import SCHEMA_VERSION, BenchRun, Host


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One file on one provider. ``latency_ns`` is the median for one image by ``clock``; ``ratio`` its time over the
    variant's optimised FP32 (None for that itself). ``sqnr_db`` is against torch. ``host`` is the index of where it
    was timed among ``list_hosts``. ``on_front`` says that no other row of the same host, provider and threads is as
    good in all of quality, latency, size and peak memory, and better in one."""

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
    size_bytes: int
    latency_ns: float = math.nan
    clock: str = ""
    ratio: Interval | None = None
    peak_bytes: int = 0
    on_front: bool = False
    host: int = 0


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
    host: int = 0


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One item of the plan: ``kept`` from an earlier run, else what earlier runs let expect (None: nothing)."""

    name: str
    kept: bool
    expected_s: float | None


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a sweep that decide what is measured, by their names on the command line."""

    cards: tuple[str, ...] = ()
    alpha: tuple[float, ...] = ()
    rho: tuple[int, ...] = ()
    recipe: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    threads: tuple[int, ...] = ()
    data: str | None = None
    limit: int | None = None
    seed: int = 0
    min_duration: float = 2.0
    processes: int = 1


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep: its plan, its rows, and the raw times behind them; no rows of one that was only planned.

    Each run timed the files of one variant: its series are the next rows, in order. ``quality`` says what the front
    takes for it: top1 where every row has it, else sqnr_db.
    """

    plan: tuple[Planned, ...]
    rows: tuple[Row, ...] = ()
    misled: tuple[Misled, ...] = ()
    quality: str = "sqnr_db"
    runs: tuple[BenchRun, ...] = ()
    asked: Asked = Asked()
    schema_version: int = SCHEMA_VERSION


def list_hosts(runs: Iterable[BenchRun]) -> list[Host]:
    """Every different host of the runs, without its providers, in the order of appearance."""
    hosts: list[Host] = []
    for run in runs:
        host = _name_host(run)
        if host not in hosts:
            hosts.append(host)
    return hosts


def split_rows(rows: Iterable[Row], runs: Iterable[BenchRun]) -> Iterator[tuple[BenchRun, list[Row]]]:
    """Each run, and the rows of its series."""
    left = iter(rows)
    yield from ((run, list(islice(left, len(run.series)))) for run in runs)


def derive_rows(rows: Iterable[Row], runs: Sequence[BenchRun]) -> list[Row]:
    """The rows with all that follows from the raw ``runs``: time, ratio, size, memory and host, derived again.

    Raises:
        ValueError: the runs have more or fewer series than there are rows.
    """
    hosts = list_hosts(runs)
    pairs = zip(rows, ((run, index) for run in runs for index in range(len(run.series))), strict=True)
    return [_derive_row(row, run, index, hosts) for row, (run, index) in pairs]


def mark_front(rows: Sequence[Row]) -> tuple[list[Row], str]:
    """The rows, each told whether it is on the front of its host, provider and threads; and what quality is."""
    quality = "top1" if rows and all(row.top1 is not None for row in rows) else "sqnr_db"
    costs: dict[tuple[int, str, int], list[tuple[float, ...]]] = {}
    for row in rows:
        costs.setdefault(name_place(row), []).append(_list_costs(row, quality))
    marked = [
        msgspec.structs.replace(row, on_front=not is_beaten(_list_costs(row, quality), costs[name_place(row)]))
        for row in rows
    ]
    return marked, quality


def judge_macs(rows: Iterable[Row]) -> list[Misled]:
    """For each recipe, host, provider and number of threads with two variants or more: what MACs say of time."""

    def name(row: Row) -> tuple[Any, ...]:
        return row.recipe, row.provider, row.threads, row.host

    found = []
    for (recipe, provider, threads, host), group in groupby(sorted(rows, key=name), key=name):
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
            host=host,
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


def name_place(row: Row | Misled) -> tuple[int, str, int]:
    """Where times were taken: host, provider and threads. Those of two places are never compared."""
    return row.host, row.provider, row.threads


def read_quality(row: Row, quality: str) -> float:
    """What the front takes for quality: a share of images, or dB."""
    return row.top1.value if quality == "top1" and row.top1 is not None else row.sqnr_db


def _derive_row(row: Row, run: BenchRun, index: int, hosts: Sequence[Host]) -> Row:
    series, clock = run.series[index], choose_clock(run)
    return msgspec.structs.replace(
        row,
        provider=run.provider,
        threads=run.threads,
        latency_ns=float(statistics.median(read_times(series, clock))),
        clock=clock,
        ratio=compare_series(run, index, clock) if index else None,
        size_bytes=series.model.size_bytes,
        peak_bytes=series.peak_bytes,
        host=hosts.index(_name_host(run)),
    )


def _list_costs(row: Row, quality: str) -> tuple[float, ...]:
    return -read_quality(row, quality), row.latency_ns, row.size_bytes, row.peak_bytes


def _name_host(run: BenchRun) -> Host:
    return msgspec.structs.replace(run.host, providers=())  # each runtime lists its own
