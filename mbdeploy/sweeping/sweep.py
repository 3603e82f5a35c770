"""A sweep: plan, build every variant, time every file, compare; what is there from earlier runs is not done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.assets import cache_root
from mbdeploy.card import ModelCard
from mbdeploy.executing import Store, Work, open_executor, submit
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.recipes import find_recipe
from mbdeploy.results import BenchRun
from mbdeploy.sweeping.jobs import Built
from mbdeploy.sweeping.planning import describe_device, foresee, locate, plan_build, plan_time, read_built
from mbdeploy.sweeping.variants import list_variants, read_alpha, write_card
from mbdeploy.swept import Asked, Planned, Row, SweepReport, derive_rows, judge_macs, mark_front


def sweep(
    cards: Sequence[str],
    *,
    output: Path,
    alpha: Sequence[float] = (),
    rho: Sequence[int] = (),
    recipe: Sequence[str] = ("accurate",),
    providers: Sequence[str] = ("cpu",),
    threads: Sequence[int] = (1,),
    data: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    min_duration: float = 2.0,
    processes: int = 5,
    dry_run: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
    store: Path | None = None,
    on_plan: Callable[[Sequence[Planned]], None] = lambda plan: None,
    on_link: Callable[[str], None] = lambda link: None,
    on_progress: Progress = ignore_progress,
) -> SweepReport:
    """Build every card with every width ``alpha`` and input size ``rho`` (pixels) in FP32 and every ``recipe``, and
    time all files on every provider with every number of threads.

    Rules: 1. variants lie in ``output``/NAME, and results in ``store`` (by default in the user's cache), by content:
    the same variant, or the same files on the same host, are done once, and a sweep that was stopped goes on.
    2. ``on_plan`` gets the plan before anything is done; with ``dry_run`` it is all there is. 3. Variants are built
    by ``workers`` processes (1 by default) or a ``cluster``; times are taken when all are built, one at a time on a
    host. 4. Accuracy on ``data`` is that of cards with trained weights.

    Raises:
        UsageError: an unknown recipe, or a card that has no such variants. CardError: a network that cannot be that
        wide. UnavailableError: a provider, a cluster or PyTorch that is not here.
    """
    for word in recipe:
        find_recipe(word)
    kept = Store(store or cache_root() / "results")
    variants = list_variants(cards, alpha, rho)
    evaluating = None if data is None else {"data": data, "limit": limit, "seed": seed}
    builds = [plan_build(card, output, tuple(dict.fromkeys(recipe)), evaluating) for card in variants]
    timing: dict[str, Any] = {"min_duration": min_duration, "processes": processes, "seed": seed}
    places = list(product(dict.fromkeys(providers), dict.fromkeys(threads)))
    devices = {word: describe_device(word, cluster) for word in dict.fromkeys(providers)}

    def plan_times(card: ModelCard, built: Built) -> list[Work]:
        return [
            plan_time(card, built, {**timing, "providers": [word], "threads": count}, devices[word])
            for word, count in places
        ]

    asked = Asked(
        cards=tuple(cards),
        alpha=tuple(alpha),
        rho=tuple(rho),
        recipe=tuple(recipe),
        providers=tuple(providers),
        threads=tuple(threads),
        data=data,
        limit=limit,
        **timing,
    )
    known = [read_built(kept, work) for work in builds]
    plan = foresee(kept, builds, known, variants, plan_times, len(places))
    on_plan(plan)
    if dry_run:
        return SweepReport(plan=tuple(plan), asked=asked)
    for card in variants:
        artifact.write_bytes(locate(output, card) / "card.toml", write_card(card).encode())
    with open_executor(1 if workers is None and cluster is None else workers, cluster) as executor:
        if executor.link:
            on_link(executor.link)
        answers = submit(builds, executor, kept, title="build", on_progress=on_progress)
        made = [msgspec.convert(done.value, Built, strict=False) for done in answers]
        works = [plan_times(card, built) for card, built in zip(variants, made, strict=True)]
        flat = [work for group in works for work in group]
        timed = iter(submit(flat, executor, kept, title="time", on_progress=on_progress))
        runs = [[msgspec.convert(next(timed).value, BenchRun, strict=False) for _ in group] for group in works]
    rows = [
        row
        for card, built, group in zip(variants, made, runs, strict=True)
        for run in group
        for row in _list_rows(card, built, run)
    ]
    measured = tuple(run for group in runs for run in group)
    marked, quality = mark_front(derive_rows(rows, measured))
    return SweepReport(
        plan=tuple(plan),
        rows=tuple(marked),
        misled=tuple(judge_macs(marked)),
        quality=quality,
        runs=measured,
        asked=asked,
    )


def _list_rows(card: ModelCard, built: Built, run: BenchRun) -> list[Row]:
    """What is known of the files; what follows from the times is derived from them."""
    return [
        Row(
            variant=card.name,
            alpha=read_alpha(card),
            size=card.preprocess.size,
            recipe=made.recipe,
            provider=run.provider,
            threads=run.threads,
            macs=built.macs,
            parameters=built.parameters,
            sqnr_db=made.sqnr_db,
            top1=made.top1,
            size_bytes=made.size_bytes,
        )
        for made in built.files
    ]
