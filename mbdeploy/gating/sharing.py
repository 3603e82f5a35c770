"""A check on many workers: files and parity card by card, then boards, then times, each alone; one report as ever."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbdeploy.card import ModelCard
from mbdeploy.errors import MbdeployError, pack_error
from mbdeploy.executing import Executor, Store, Work, open_executor, submit
from mbdeploy.executing.runs import Run, taking_up
from mbdeploy.gating.jobs import Judged, Made, Timed, digest_card
from mbdeploy.gating.measuring import MAKER, sort_providers
from mbdeploy.gating.merging import Answers, merge_answers
from mbdeploy.gating.planning import Shared, plan_judge, plan_make, plan_time
from mbdeploy.gating.report import CardResult
from mbdeploy.isolate import Progress
from mbdeploy.pipeline import StageRun
from mbdeploy.targets import Job, find_device, open_target, parse_provider

#: How long after it began a check that was stopped can be gone on with; then its times are measured again.
LONGEST_S = 12 * 3600.0
K = TypeVar("K", bound=Hashable)
T = TypeVar("T", Made, Judged, Timed)


def check_shared(
    cards: Sequence[ModelCard],
    *,
    output: Path,
    providers: Sequence[str],
    baseline: Path | None,
    tolerance: float,
    ignore: Collection[str],
    options: Mapping[str, Any],
    trust: bool,
    workers: int | None,
    cluster: str | None,
    store: Path,
    on_stage: Callable[[StageRun], None],
    on_link: Callable[[str], None],
    on_progress: Progress,
) -> list[CardResult]:
    """The results of ``check``, not yet corrected, card by card.

    Rules: 1. one item a card makes its files, looks at them, and verifies them where no board is needed. 2. One item a
    card and board verifies them there. 3. One item a card and provider takes times, when all that is done: alone on its
    board or host. 4. What 1 and 2 found is kept by content, but for refusals. Times are kept for the run that took
    them: one that was stopped goes on if the same is asked for within ``LONGEST_S``, and the result says so; after
    one that ended they are taken again.

    Raises:
        UnavailableError: a cluster that is not there, or that has no worker for a board, or none for times.
    """
    real, emulated, refusals = sort_providers(providers)
    asked_real, real = bool(real), real or [MAKER]
    boards = {word: board for word in (*real, *emulated) if (board := find_device(parse_provider(word)))}
    shared = Shared(
        output=output.absolute(),
        real=tuple(real) if asked_real or emulated else (),
        emulated=tuple(emulated),
        boards=boards,
        baseline=baseline.absolute() if baseline is not None and asked_real else None,
        tolerance=tolerance,
        ignore=tuple(sorted(ignore)),
        options=options,
        trust=trust,
        device=tuple(_describe_device(cluster)),
    )
    identity = {
        "shared": msgspec.to_builtins(shared, enc_hook=str),
        "cards": [digest_card(card) for card in cards],
        "from": platform.node(),
    }
    with taking_up(Store(store), identity, longest_s=LONGEST_S) as run, contextlib.ExitStack() as stack:
        found: dict[str, Answers] = {card.name: Answers(made=Made(), judged={}, timed={}) for card in cards}
        if shared.real:
            executor = stack.enter_context(open_executor(workers, cluster))
            if executor.link:
                on_link(executor.link)
            executor.demand(set(boards.values()), times=any(word not in boards for word in shared.real))
            found = _ask_all(shared, cards, _Asker(executor, Store(store), on_progress), run, on_stage)
        return [
            merge_answers(
                shared,
                card,
                found[card.name],
                folder=output / card.name,
                providers=providers,
                baseline=baseline,
                refusals=refusals,
            )
            for card in cards
        ]


class _Asker(msgspec.Struct, frozen=True):
    """Items in, answers out; what refused is not kept, so that it is asked again."""

    executor: Executor
    store: Store
    on_progress: Progress

    def ask(self, works: Mapping[K, Work], kind: type[T], title: str) -> dict[K, tuple[T, float]]:
        """The answers and the seconds that they took."""
        for work in works.values():
            kept = self.store.read(work.key)
            if kept is not None and not msgspec.convert(kept.value, kind, strict=False).is_whole(work.request):
                self.store.forget(work.key)
        done = submit(list(works.values()), self.executor, self.store, title=title, on_progress=self.on_progress)
        answers = {
            key: (msgspec.convert(one.value, kind, strict=False), one.seconds)
            for key, one in zip(works, done, strict=True)
        }
        for key, (answer, _) in answers.items():
            if not answer.is_whole(works[key].request):
                self.store.forget(works[key].key)
        return answers


def _ask_all(
    shared: Shared, cards: Sequence[ModelCard], asker: _Asker, run: Run, on_stage: Callable[[StageRun], None]
) -> dict[str, Answers]:
    """What workers say of every card, in three phases."""
    making: dict[str, Work] = {}
    made: dict[str, tuple[Made, float]] = {}
    for card in cards:
        try:
            making[card.name] = plan_make(shared, card)
        except MbdeployError as error:
            made[card.name] = Made(refused=pack_error(error)), 0.0
    made |= asker.ask(making, Made, "check")
    for name in making:
        for stage in made[name][0].stages:
            on_stage(stage)
    usable = [card for card in cards if made[card.name][0].refused is None]
    files = {card.name: made[card.name][0].files for card in usable}
    judging = {
        (card.name, word): plan_judge(shared, card, word, files[card.name]) for card in usable for word in shared.boards
    }
    judged = {
        **{(card.name, word): (one, 0.0) for card in usable for word, one in made[card.name][0].judged.items()},
        **asker.ask(judging, Judged, "check on boards"),
    }
    timing = {
        (card.name, word): plan_time(shared, card, word, files[card.name], run.name)
        for card in usable
        for word in shared.real
        if judged[card.name, word][0].refused is None
    }
    resumed = {key for key, work in timing.items() if asker.store.read(work.key) is not None}
    timed = asker.ask(timing, Timed, "time")
    for work in timing.values():  # they have served: the next check takes its own
        asker.store.forget(work.key)

    def pick(parts: Mapping[tuple[str, str], tuple[T, float]], name: str) -> dict[str, T]:
        return {word: one for (card, word), (one, _) in parts.items() if card == name}

    return {
        card.name: Answers(
            made=made[card.name][0],
            judged=pick(judged, card.name),
            timed=pick(timed, card.name),
            seconds=made[card.name][1]
            + sum(seconds for (name, _), (_, seconds) in (*judged.items(), *timed.items()) if name == card.name),
            notes=_note_resumed([word for name, word in timing if (name, word) in resumed and name == card.name], run),
        )
        for card in cards
    }


def _note_resumed(words: Sequence[str], run: Run) -> tuple[str, ...]:
    if not words:
        return ()
    return (f"times on {', '.join(words)} were taken before this check was stopped; it began at {run.began}",)


def _describe_device(cluster: str | None) -> list[str]:
    if cluster is not None and not cluster.startswith("local:"):
        return [cluster]
    host = open_target(parse_provider(MAKER)).run(Job(kind="probe")).host
    return [host.cpu, *host.isa]
