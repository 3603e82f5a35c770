"""Variants side by side: size, likeness, accuracy and time of every file of every report, and the best of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.pareto import is_beaten
from mbdeploy.results import Host, Metrics
from mbdeploy.stages.facts import LatencyFact, ParityFact
from mbdeploy.stages.reporting.facts import Report, find_host
from mbdeploy.stages.reporting.reading import BENCH, CONFIRMED, PARITY

Quality = Literal["top-1", "same class", "SQNR"]


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """One file of one report on one provider; what was not measured is None.

    ``host`` is the index of its host among ``list_hosts``. ``run`` is the index of its run among the report's, whose
    baseline ``ratio`` is against. ``data`` says which labelled images ``top1`` is of.
    """

    report: int
    model: str
    file: str
    provider: str
    host: int | None
    size_bytes: int | None
    sqnr_db: float | None = None
    top1_agreement: float | None = None
    top1: Interval | None = None
    data: str = ""
    run: int | None = None
    threads: int | None = None
    batch_size: int | None = None
    p50_ns: float | None = None
    ratio: Interval | None = None
    peak_bytes: int | None = None


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """Variants that may be compared: timed alike on like hosts, and with a common measure of quality.

    ``best`` holds the indices of those that no other beats in time, quality and size together.
    """

    title: str
    quality: Quality
    host: int
    members: tuple[int, ...]
    best: tuple[int, ...]


def list_hosts(reports: Sequence[Report]) -> list[Host]:
    """Every different host of all reports, in the order of their appearance."""
    hosts: list[Host] = []
    for fact in (fact for report in reports for fact in report.hosts):
        if fact.host not in hosts:
            hosts.append(fact.host)
    return hosts


def name_models(reports: Sequence[Report], folders: Sequence[Path]) -> list[str]:
    """A name for each report: the model's, and the folder where two have the same."""
    return tell_apart([report.model for report in reports], folders)


def tell_apart(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The names, with the folder in place of those that are there twice."""
    return [name if names.count(name) == 1 else str(folder) for name, folder in zip(names, folders, strict=True)]


def list_variants(reports: Sequence[Report], names: Sequence[str]) -> list[Variant]:
    """One variant a timed series; files that were only compared follow, one a provider."""
    hosts = list_hosts(reports)
    found: list[Variant] = []
    for index, (report, name) in enumerate(zip(reports, names, strict=True)):
        timed = [(run, fact) for run, facts in enumerate(report.latency) for fact in facts.models]
        found += [_join_timed(index, report, name, run, fact, hosts) for run, fact in timed]
        known = {(fact.model, fact.provider) for _, fact in timed}
        compared = {(fact.model, fact.provider): None for fact in report.parity}
        for model, provider in compared:
            if (model, provider) not in known:
                host = find_host(report, PARITY, provider)
                found.append(_join(index, report, name, model, provider, None if host is None else hosts.index(host)))
    return found


def list_fields(variants: Sequence[Variant]) -> list[Field]:
    """Every group of at least two variants that may be drawn on the same axes, each with its front.

    Rules: 1. like hosts, providers, threads and batch sizes only. 2. Top-1 on the same labelled images compares any
    models; agreement and SQNR are against a model's own reference, so they compare the files of one model.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, variant in enumerate(variants):
        if variant.p50_ns is None or variant.host is None:
            continue
        alike = (variant.host, variant.provider, variant.threads, variant.batch_size)
        if variant.top1 is not None:
            groups.setdefault(("top-1", variant.data, *alike), []).append(index)
        elif variant.top1_agreement is not None:
            groups.setdefault(("same class", variant.report, *alike), []).append(index)
        elif variant.sqnr_db is not None:
            groups.setdefault(("SQNR", variant.report, *alike), []).append(index)
    return [_make_field(variants, members) for members in groups.values() if len(members) > 1]


def read_quality(variant: Variant) -> tuple[Quality, float]:
    """The best measure of quality there is: labelled accuracy, else agreement with the reference, else dB."""
    if variant.top1 is not None:
        return "top-1", variant.top1.value
    if variant.top1_agreement is not None:
        return "same class", variant.top1_agreement
    return "SQNR", variant.sqnr_db if variant.sqnr_db is not None else float("nan")


def _make_field(variants: Sequence[Variant], members: Sequence[int]) -> Field:
    first = variants[members[0]]
    quality, _ = read_quality(first)
    models = dict.fromkeys(variants[index].model for index in members)
    costs = {index: _score(variants[index]) for index in members}
    threads = f"{first.threads} thread{'s' if first.threads != 1 else ''}"
    title = f"{', '.join(models)} on {first.provider}, {threads}, batch {first.batch_size}"
    assert first.host is not None
    return Field(
        title=title,
        quality=quality,
        host=first.host,
        members=tuple(members),
        best=tuple(index for index in members if not is_beaten(costs[index], [*costs.values()])),
    )


def _score(variant: Variant) -> tuple[float, float, float]:
    """Time, lost quality and size: the less, the better."""
    _, quality = read_quality(variant)
    return variant.p50_ns or 0.0, -quality, float(variant.size_bytes or 0)


def _join_timed(index: int, report: Report, name: str, run: int, fact: LatencyFact, hosts: Sequence[Host]) -> Variant:
    host = find_host(report, CONFIRMED, fact.provider) or find_host(report, BENCH, fact.provider)
    joined = _join(index, report, name, fact.model, fact.provider, None if host is None else hosts.index(host))
    return msgspec.structs.replace(
        joined,
        size_bytes=fact.size_bytes or joined.size_bytes,
        run=run,
        threads=fact.threads,
        batch_size=fact.batch_size,
        p50_ns=fact.wall.p50_ns,
        ratio=fact.ratio,
        peak_bytes=fact.peak_bytes,
    )


def _join(index: int, report: Report, name: str, model: str, provider: str, host: int | None) -> Variant:
    parity = [fact for fact in report.parity if (fact.model, fact.provider) == (model, provider)]
    worst = _find_worst(parity)
    sizes = {Path(file.name).stem: file.size_bytes for file in report.files}
    accuracy = next(
        (
            (fact.top1, data.data)
            for data in report.accuracy
            for fact in data.models
            if (fact.model, fact.provider) == (model, provider)
        ),
        None,
    )
    return Variant(
        report=index,
        model=name,
        file=model,
        provider=provider,
        host=host,
        size_bytes=sizes.get(model),
        sqnr_db=worst.sqnr_db if worst else None,
        top1_agreement=worst.top1_agreement if worst else None,
        top1=accuracy[0] if accuracy else None,
        data=accuracy[1] if accuracy else "",
    )


def _find_worst(parity: Sequence[ParityFact]) -> Metrics | None:
    """The output that is furthest from its reference; None if one of them may not be believed at all."""
    found = [fact.executed for fact in parity if fact.executed is not None]
    if any(metrics.degenerate is not None for metrics in found):
        return None
    return min(found, key=lambda metrics: metrics.sqnr_db, default=None)
