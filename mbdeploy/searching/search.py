"""A search: fit a predictor of latency, try variants by what it says, measure the best, and take one of those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from mbdeploy.assets import cache_root
from mbdeploy.data import open_dataset
from mbdeploy.errors import UsageError
from mbdeploy.executing import Store, open_executor
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.quant.recipes import find_recipe
from mbdeploy.searching.asked import Asked
from mbdeploy.searching.choosing import choose_row, mark_front
from mbdeploy.searching.report import Quality, SearchReport
from mbdeploy.searching.running import Run
from mbdeploy.searching.space import Point, list_points
from mbdeploy.searching.target import EXPONENT, parse_latency
from mbdeploy.sweeping.planning import describe_device
from mbdeploy.swept import Planned

#: Variants that are proposed together for the workers of a cluster; later ones know what earlier ones were worth.
_CLUSTER_BATCH = 4


def search(
    cards: Sequence[str],
    *,
    target_latency: str,
    output: Path,
    alpha: Sequence[float] = (),
    rho: Sequence[int] = (),
    recipe: Sequence[str] = ("accurate",),
    provider: str = "cpu",
    threads: int = 1,
    data: str | None = None,
    limit: int | None = None,
    quality: Quality = "top1",
    exponent: float = EXPONENT,
    hard: bool = False,
    num_trials: int = 20,
    num_profiled: int = 6,
    num_measured: int = 3,
    num_search_samples: int = 200,
    refine: bool = False,
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
) -> SearchReport:
    """Find the file with the highest reward that takes ``target_latency`` ("8ms") on ``provider`` or less, over every
    card, width ``alpha``, input size ``rho`` (pixels), and FP32 or a ``recipe``.

    Rules: 1. the reward is quality (latency / target)^w, see :func:`mbdeploy.searching.target.compute_reward`; quality
    is top-1 on ``data``, or with ``sqnr`` what 8 bits leave of a network's own outputs. 2. ``num_profiled`` variants
    far apart are built and measured, and a predictor of latency is fitted on them. 3. Up to ``num_trials`` variants,
    these included, are built and judged by ``num_search_samples`` images and predicted latency; all of them if there
    are no more, else those that Optuna's TPE sampler proposes. One that is predicted to miss the target by more than
    the predictor's largest error is not built. 4. The ``num_measured`` best are judged by all images (``limit`` of
    them) and timed, every file by turns; among them is one that meets the target for sure, if any does. Only these
    are results, and one of those is chosen. 5. With ``refine``, layers of the best one that are better left in float
    are looked for (:func:`mbdeploy.quantize_within`), unless FP32 itself meets the target. 6. What is built or measured
    is kept, and shared, as a sweep's is; ``output``, ``store``, ``workers``, ``cluster`` and ``on_plan`` are as there.

    Raises:
        UsageError: no time with a unit, an unknown recipe, a target on which times do not exist, seeded weights or no
        labelled images where quality is top-1. CardError: a network that cannot be that wide. UnavailableError: a
        provider, a cluster, PyTorch, or, where not everything is tried, Optuna that is not here.
    """
    target_ns = parse_latency(target_latency)
    for word in recipe:
        find_recipe(word)
    points = list_points(cards, alpha, rho)
    _check_numbers(num_trials=(num_trials, 1), num_profiled=(num_profiled, 1), num_measured=(num_measured, 1))
    if not -10 <= exponent < 0:
        raise UsageError(where="--exponent", expected="from -10 to below 0", found=f"{exponent:g}", todo="give -0.07")
    _check_quality(points, quality, data)
    judging = None if data is None else {"data": data, "limit": limit, "seed": seed}
    if judging is None:
        trying = None
    else:
        images = len(open_dataset(str(data), labelled=True, limit=limit, seed=seed).samples)
        trying = judging if images <= num_search_samples else {**judging, "limit": num_search_samples}
    asked = Asked(
        target_ns=target_ns,
        exponent=exponent,
        hard=hard,
        quality=quality,
        recipes=tuple(dict.fromkeys(recipe)),
        provider=provider,
        threads=threads,
        timing={"min_duration": min_duration, "processes": processes, "seed": seed},
        device=tuple(describe_device(provider, cluster)),
        trying=trying,
        judging=judging,
        num_trials=num_trials,
        num_profiled=num_profiled,
        num_measured=num_measured,
        seed=seed,
        batch=workers or (1 if cluster is None else _CLUSTER_BATCH),
        output=output,
    )
    run = Run(asked, points, Store(store or cache_root() / "results"), on_progress)
    plan = run.foresee()
    on_plan(plan)
    report = SearchReport(
        plan=tuple(plan),
        space=len(points),
        target_ns=target_ns,
        provider=provider,
        threads=threads,
        exponent=exponent,
        hard=hard,
        quality=quality,
        data=data,
        seed=seed,
        optimiser=run.optimiser,
    )
    if dry_run:
        return report
    with open_executor(1 if workers is None and cluster is None else workers, cluster) as executor:
        if executor.link:
            on_link(executor.link)
        run.executor = executor
        run.fit()
        run.explore()
        rows = run.measure()
        chosen, reason = choose_row(rows, target_ns)
        if refine:
            rows, note = run.refine(rows, chosen)
            chosen, reason = choose_row(rows, target_ns)
            reason += note
    return run.finish(report, mark_front(rows), chosen, reason)


def _check_quality(points: Sequence[Point], quality: Quality, data: str | None) -> None:
    if quality == "sqnr":
        return
    todo = "or give --quality sqnr, which compares precisions of one network and not networks"
    if data is None:
        raise UsageError(
            where="--quality top1", expected="labelled images to judge by", found="none", todo=f"give --data, {todo}"
        )
    for point in points:
        if point.variant.trained is False or point.variant.task != "classify":
            raise UsageError(
                where=point.variant.name,
                expected="a classifier with trained weights, which has an accuracy",
                found="seeded weights" if point.variant.task == "classify" else f"a network to {point.variant.task}",
                todo=f"name cards whose weights are trained at the width they have, {todo}",
            )


def _check_numbers(**limits: tuple[int, int]) -> None:
    for name, (value, lowest) in limits.items():
        if value < lowest:
            raise UsageError(where=name, expected=f"{lowest} or more", found=str(value), todo="give such a number")
