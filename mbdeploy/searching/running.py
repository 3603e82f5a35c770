"""A search under way: what was built, measured and predicted so far, and the steps that go on from there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard
from mbdeploy.derive import estimate_time
from mbdeploy.executing import Executor, Store, Work, submit
from mbdeploy.isolate import Progress
from mbdeploy.results import BenchRun
from mbdeploy.searching.asked import Asked
from mbdeploy.searching.choosing import describe_measured, make_row, read_quality
from mbdeploy.searching.jobs import Counted, Mixed, Profiled
from mbdeploy.searching.optimiser import Optimiser
from mbdeploy.searching.planning import forget_lost, locate_card, plan_counts, plan_mix, plan_profile
from mbdeploy.searching.predictor import cross_validate, fit_predictor
from mbdeploy.searching.ranking import Candidate, bound_error, choose_finals, may_meet
from mbdeploy.searching.report import Fit, Found, SearchReport, Tried
from mbdeploy.searching.space import Point, spread_points
from mbdeploy.sweeping.jobs import Built
from mbdeploy.sweeping.planning import foresee, locate, plan_build, plan_time, read_built
from mbdeploy.sweeping.variants import read_alpha, write_card
from mbdeploy.swept import Planned


class Run:
    """The state of a search. The steps are called in the order in which they stand here."""

    executor: Executor

    def __init__(self, asked: Asked, points: Sequence[Point], kept: Store, on_progress: Progress) -> None:
        self.asked, self.points, self._kept, self._on_progress = asked, list(points), kept, on_progress
        self.optimiser = "all" if len(points) <= asked.num_trials else "TPE"
        self._sampler = Optimiser(points, asked.seed) if self.optimiser == "TPE" else None
        self._first = spread_points(points, min(asked.num_profiled, asked.num_trials))
        self._built: dict[str, Built] = {}
        self._runs: dict[str, BenchRun] = {}
        self._tried: dict[str, Tried] = {}
        self._predicted: dict[str, dict[str, float]] = {}
        self._fits: list[Fit] = []
        self._mix: Mixed | None = None

    def foresee(self) -> list[Planned]:
        """The plan: what is known to be done, and how much more may follow."""
        counts = plan_counts([point.variant for point in self.points], self.asked.output)
        counted = all(self._kept.read(work.key) is not None for work in counts)
        plan = [Planned(name=f"count {len(self.points)} networks", kept=counted, expected_s=None)]
        everything = self.optimiser == "all"
        points = self.points if everything else self._first
        for point in points:
            works = [plan_build(point.variant, self.asked.output, self.asked.recipes, self.asked.trying)]
            known = [read_built(self._kept, work) for work in works]
            first = point in self._first
            plan += foresee(self._kept, works, known, [point.variant], self._plan_times if first else _none, int(first))
        if not everything:
            later = self.asked.num_trials - len(self._first)
            plan += [Planned(name="build what Optuna proposes", kept=False, expected_s=None) for _ in range(later)]
        plan += [
            Planned(name="judge and time one of the best", kept=False, expected_s=None)
            for _ in range(min(self.asked.num_measured, len(self.points)))
        ]
        return plan

    def fit(self) -> None:
        """Count every network, measure the first ones, and fit the predictor on them."""
        variants = [point.variant for point in self.points]
        for card in variants:
            artifact.write_bytes(locate_card(self.asked.output, card), write_card(card).encode())
        counted = [
            one
            for value in self._submit(plan_counts(variants, self.asked.output), "count")
            for one in msgspec.convert(value, list[Counted], strict=False)
        ]
        self._build(self._first, self.asked.trying)
        cards = [point.variant for point in self._first]
        self._time(cards)
        place = (self.asked.provider, self.asked.threads, self.asked.device)
        works = [plan_profile(card, self._built[card.name], *place) for card in cards]
        profiled = [msgspec.convert(value, Profiled, strict=False) for value in self._submit(works, "profile")]
        for number, recipe in enumerate(self.asked.precisions):
            measured = [
                describe_measured(card.name, profile, self._runs[card.name], number)
                for card, profile in zip(cards, profiled, strict=True)
            ]
            self._fits.append(cross_validate(measured, recipe))
            predictor = fit_predictor(measured, is_float=recipe == "fp32")
            for card, one in zip(variants, counted, strict=True):
                self._predicted.setdefault(card.name, {})[recipe] = predictor.predict_ns(one.layers)
        for point in self._first:
            self._judge(point, "first")

    def explore(self) -> None:
        """Build and judge more variants, by predicted latency: all that are left, or what the sampler proposes."""
        if self._sampler is None:
            left = [point for point in self.points if point.variant.name not in self._tried]
            self._try(left)
            return
        while len(self._built) < self.asked.num_trials:
            room = min(self.asked.batch, self.asked.num_trials - len(self._built))
            batch = [point for point in (self._sampler.ask() for _ in range(room)) if point is not None]
            if not batch:
                return
            self._try(batch)

    def measure(self) -> list[Found]:
        """Judge the best variants by all images, and time every file of theirs."""
        finals = self._choose_finals()
        if self.asked.judging != self.asked.trying:
            self._build(finals, self.asked.judging)
        cards = [point.variant for point in finals]
        self._time(cards)
        return [row for card in cards for row in self._list_rows(card)]

    def refine(self, rows: list[Found], chosen: int | None) -> tuple[list[Found], str]:
        """Add a mix of INT8 and float of the best variant, measured; and say why there is none."""
        best = rows[chosen] if chosen is not None else max(rows, key=lambda row: row.reward)
        own = {row.recipe: row for row in rows if row.variant == best.variant}
        if own["fp32"].verdict == "met":
            return rows, "; no mix was looked for, because FP32 itself meets the target"
        card = next(point.variant for point in self.points if point.variant.name == best.variant)
        recipe = best.recipe if best.recipe != "fp32" else self.asked.recipes[0]
        place = {"provider": self.asked.provider, "threads": self.asked.threads, "seed": self.asked.seed}
        ratio = self.asked.target_ns / own["fp32"].latency.high  # a mix fills its time: leave what nobody knows
        built = self._built[card.name]
        work = plan_mix(card, built, recipe, ratio, place, self.asked.judging, self.asked.device)
        forget_lost(self._kept, work)
        self._mix = msgspec.convert(next(iter(self._submit([work], "mix"))), Mixed, strict=False)
        if self._mix.made is None:
            return rows, f"; no mix of {best.variant} does: {self._mix.report.reason}"
        if self._mix.report.final is not None and not self._mix.report.final.keep_float:
            return rows, "; no layer is better left in float"
        self._built[card.name] = msgspec.structs.replace(built, files=(*built.files, self._mix.made))
        self._time([card])
        kept = self._mix.report.final.keep_float if self._mix.report.final else ()
        others = [row for row in rows if row.variant != best.variant]
        return [*self._list_rows(card, kept), *others], ""

    def finish(self, report: SearchReport, rows: Sequence[Found], chosen: int | None, reason: str) -> SearchReport:
        """The whole report."""
        return msgspec.structs.replace(
            report,
            fits=tuple(self._fits),
            tried=tuple(self._tried.values()),
            rows=tuple(rows),
            chosen=chosen,
            reason=reason,
            mix=self._mix.report if self._mix else None,
            runs=tuple(self._runs.values()),
        )

    def _submit(self, works: Sequence[Work], title: str) -> list[Any]:
        return [
            done.value for done in submit(works, self.executor, self._kept, title=title, on_progress=self._on_progress)
        ]

    def _build(self, points: Sequence[Point], evaluating: dict[str, Any] | None) -> None:
        works = []
        for point in points:
            folder = locate(self.asked.output, point.variant)
            artifact.write_bytes(folder / "card.toml", write_card(point.variant).encode())
            work = plan_build(point.variant, self.asked.output, self.asked.recipes, evaluating)
            read_built(self._kept, work)  # forgets one whose files are gone
            works.append(work)
        for point, value in zip(points, self._submit(works, "build"), strict=True):
            self._built[point.variant.name] = msgspec.convert(value, Built, strict=False)

    def _plan_times(self, card: ModelCard, built: Built) -> list[Work]:
        place = {"providers": [self.asked.provider], "threads": self.asked.threads}
        return [plan_time(card, built, {**self.asked.timing, **place}, self.asked.device)]

    def _time(self, cards: Sequence[ModelCard]) -> None:
        works = [work for card in cards for work in self._plan_times(card, self._built[card.name])]
        for card, value in zip(cards, self._submit(works, "time"), strict=True):
            self._runs[card.name] = msgspec.convert(value, BenchRun, strict=False)

    def _try(self, points: Sequence[Point]) -> None:
        """Build and judge those of the points that may meet the target."""
        error = bound_error(self._fits)
        able = [point for point in points if may_meet(self._predicted[point.variant.name], self.asked.target_ns, error)]
        self._build(able, self.asked.trying)
        for point in points:
            self._judge(point, "built" if point in able else "skipped")

    def _judge(self, point: Point, state: Any) -> None:
        """Keep what a variant is worth, and tell the sampler; one that was skipped is worth nothing."""
        card = point.variant
        built = self._built.get(card.name)
        quality = {made.recipe: read_quality(made, self.asked.quality) for made in built.files} if built else {}
        rewards = {name: self.asked.reward(value, self._know_ns(card.name, name)) for name, value in quality.items()}
        tried = Tried(
            variant=card.name,
            alpha=read_alpha(card),
            size=card.preprocess.size,
            state=state,
            predicted_ns=self._predicted[card.name],
            quality=quality,
            rewards=rewards,
            reward=max((reward for reward in rewards.values() if not math.isnan(reward)), default=0.0),
        )
        self._tried[card.name] = tried
        if self._sampler is not None:
            self._sampler.tell(point, tried.reward)

    def _know_ns(self, name: str, recipe: str) -> float:
        """The measured time of a file if it was measured, else the predicted one."""
        if name in self._runs:
            return estimate_time(self._runs[name], self.asked.precisions.index(recipe), unit_ns=1.0).value
        return self._predicted[name][recipe]

    def _choose_finals(self) -> list[Point]:
        candidates = [
            Candidate(
                name=name,
                rewards=self._tried[name].rewards,
                latency_ns={recipe: self._know_ns(name, recipe) for recipe in self.asked.precisions},
                measured=name in self._runs,
            )
            for name in self._built
        ]
        points = {point.variant.name: point for point in self.points}
        error = bound_error(self._fits)
        return [
            points[name] for name in choose_finals(candidates, self.asked.num_measured, self.asked.target_ns, error)
        ]

    def _list_rows(self, card: ModelCard, keep_float: tuple[str, ...] = ()) -> list[Found]:
        """A measured variant's rows; ``keep_float`` is that of the mix among its files."""
        run, predicted = self._runs[card.name], self._predicted[card.name]
        return [
            make_row(self.asked, card, made, run, index, predicted.get(made.recipe), keep_float)
            for index, made in enumerate(self._built[card.name].files)
        ]


def _none(card: ModelCard, built: Built) -> list[Work]:
    return []
