"""``check``: cards through the pipeline, judged against their budgets and against another version, card by card."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from mbdeploy.assets import cache_root
from mbdeploy.card import ModelCard
from mbdeploy.gating.lint import lint_model
from mbdeploy.gating.measuring import measure_card, pick_timing
from mbdeploy.gating.report import CardResult, CheckReport, find_worst
from mbdeploy.gating.sharing import check_shared
from mbdeploy.gating.steps import Step, add_found, add_lint, add_versions, correct_all, follow, holding, note_new
from mbdeploy.gating.tracing import trace_failures
from mbdeploy.gating.versions import compare_versions, find_version, refuse_baseline
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.pipeline import StageRun
from mbdeploy.stages.placement import check_rules, parse_rules
from mbdeploy.targets import open_target, parse_provider


def check(
    cards: Sequence[ModelCard],
    *,
    output: Path = Path("out"),
    providers: Sequence[str] = ("cpu",),
    baseline: Path | None = None,
    tolerance: float = 0.05,
    ignore: Collection[str] = (),
    threads: int = 1,
    min_duration: float = 2.0,
    seed: int = 0,
    allow_fallback: bool = False,
    require_placement: Sequence[str] = (),
    trust: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
    store: Path | None = None,
    on_link: Callable[[str], None] = lambda link: None,
    on_stage: Callable[[StageRun], None] = lambda stage: None,
    on_progress: Progress = ignore_progress,
) -> CheckReport:
    """Take every card through the pipeline into ``output/NAME`` and judge what comes out.

    Rules: 1. what is fresh is not done again. 2. Gates are the card's budgets; time is one of them only where the card
    has ``latency_ratio``, and if it does not hold it is measured again in full. 3. Errors of the audit are a gate;
    other findings of ``inspect`` and ``audit`` are only told. ``ignore`` names rules to leave out. 4. With
    ``baseline``, the output folder of another version, its INT8 file and ours run now on the same images, and take
    turns in one bench. 5. A gate on paired measurements fails only if it still does after Holm's correction over all of
    them. 6. A failed parity gate is traced to its first node. 7. A card or provider that cannot be judged is a refusal
    with its exit code, and the others go on; ``exit_code`` is the worst of all, in the order 5, 2, 3, 1, 4, 0.
    8. ``workers`` processes here, or those of a ``cluster`` (``local:N``, ``tcp://host:port``), share all but times, as
    :func:`mbdeploy.gating.sharing.check_shared` says; finished parts are kept in ``store`` (by default in the user's
    cache). ``on_link`` is told where a cluster can be watched.

    Raises:
        ModelError: a baseline that holds no version of any card. UsageError: no such provider.
        UnavailableError: a cluster that is not there, or lacks a worker for a board or for times.
    """
    if baseline is not None and not any(find_version(baseline, card.name) for card in cards):
        raise refuse_baseline(baseline)
    for word in providers:  # a word that means nothing is refused before any work
        parse_provider(word)
    check_rules(parse_rules(require_placement), providers, ["int8"])
    options: dict[str, Any] = {
        "threads": threads,
        "min_duration": min_duration,
        "seed": seed,
        "allow_fallback": allow_fallback,
        "require_placement": list(require_placement),
    }
    if workers is not None or cluster is not None:
        results = check_shared(
            cards,
            output=output,
            providers=providers,
            baseline=baseline,
            tolerance=tolerance,
            ignore=ignore,
            options=options,
            trust=trust,
            workers=workers,
            cluster=cluster,
            store=store or cache_root() / "results",
            on_stage=on_stage,
            on_link=on_link,
            on_progress=on_progress,
        )
    else:
        told = {**options, "trust": trust, "on_stage": on_stage, "on_progress": on_progress}
        results = [_check_here(card, output, providers, baseline, tolerance, ignore, told) for card in cards]
    corrected = correct_all(results)
    return CheckReport(
        cards=corrected,
        providers=tuple(providers),
        baseline=str(baseline or ""),
        exit_code=find_worst([result.exit_code for result in corrected]),
    )


def check_card(
    card: ModelCard, folder: Path, providers: Sequence[str], *, tolerance: float = 0.05, **options: Any
) -> CardResult:
    """One card against its budgets, as a test suite asks for it: no findings, no other version.

    ``options`` are those of ``pipeline.run``. Whoever is at work on the same folder is waited for; then all is fresh.
    """
    return correct_all([follow(card, folder, [_measuring(card, providers, tolerance, options)])])[0]


def _check_here(
    card: ModelCard,
    output: Path,
    providers: Sequence[str],
    baseline: Path | None,
    tolerance: float,
    ignore: Collection[str],
    options: dict[str, Any],
) -> CardResult:
    steps = [
        _measuring(card, providers, tolerance, options, confirm=True),
        _linting(ignore, options["on_progress"]),
    ]
    if baseline is not None:
        timing = pick_timing(options)
        steps.append(_comparing(card, baseline, providers, {**timing, "tolerance": tolerance}))
    return follow(card, output / card.name, steps)


def _measuring(
    card: ModelCard, providers: Sequence[str], tolerance: float, options: dict[str, Any], *, confirm: bool = False
) -> Step:
    def step(result: CardResult) -> CardResult:
        folder = Path(result.folder)
        with holding(folder):
            found = measure_card(card, folder, providers, options, tolerance=tolerance, confirm=confirm)
            divergences = trace_failures(card, folder, found.gates, options)
        return add_found(result, card, found, divergences)

    return step


def _linting(ignore: Collection[str], on_progress: Progress) -> Step:
    def step(result: CardResult) -> CardResult:
        if not (Path(result.folder) / "int8.onnx").is_file():
            return result  # no provider was here to make it with, which the refusals say
        return add_lint(result, lint_model(Path(result.folder) / "int8.onnx", ignore=ignore, on_progress=on_progress))

    return step


def _comparing(card: ModelCard, baseline: Path, providers: Sequence[str], options: dict[str, Any]) -> Step:
    def step(result: CardResult) -> CardResult:
        other = find_version(baseline, card.name)
        if other is None:
            return note_new(result, baseline)
        refused = {refusal.provider for refusal in result.refusals}
        words = [word for word in providers if word not in refused and not open_target(parse_provider(word)).emulated]
        if not words or not result.gates:
            return result
        with holding(Path(result.folder)):
            found = compare_versions(card.name, Path(result.folder), other, providers=words, **options)
        return add_versions(result, found)

    return step
