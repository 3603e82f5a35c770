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
#: An answer, the seconds that it took, and whether it was there already.
Told = tuple[T, float, bool]


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

    def ask(self, works: Mapping[K, Work], kind: type[T], title: str) -> dict[K, Told[T]]:
        """The answers, in the order of the items."""
        there = {key for key, work in works.items() if self._is_kept(work, kind)}
        done = submit(list(works.values()), self.executor, self.store, title=title, on_progress=self.on_progress)
        answers: dict[K, Told[T]] = {}
        for key, one in zip(works, done, strict=True):
            answers[key] = msgspec.convert(one.value, kind, strict=False), one.seconds, key in there
        for work in works.values():
            self._is_kept(work, kind)
        return answers

    def _is_kept(self, work: Work, kind: type[T]) -> bool:
        """Whether there is an answer that can be used again; one that cannot is forgotten."""
        kept = self.store.read(work.key)
        if kept is None:
            return False
        with contextlib.suppress(msgspec.ValidationError):  # (it is of another state of the program)
            if msgspec.convert(kept.value, kind, strict=False).is_whole(work.request):
                return True
        self.store.forget(work.key)
        return False


def _ask_all(
    shared: Shared, cards: Sequence[ModelCard], asker: _Asker, run: Run, on_stage: Callable[[StageRun], None]
) -> dict[str, Answers]:
    """What workers say of every card, in three phases."""
    making: dict[str, Work] = {}
    made: dict[str, Told[Made]] = {}
    for card in cards:
        try:
            making[card.name] = plan_make(shared, card)
        except MbdeployError as error:
            made[card.name] = Made(refused=pack_error(error)), 0.0, False
    made |= asker.ask(making, Made, "check")
    for name in making:
        for stage in made[name][0].stages:
            on_stage(msgspec.structs.replace(stage, fresh=stage.fresh or made[name][2]))
    usable = [card for card in cards if made[card.name][0].refused is None]
    files = {card.name: made[card.name][0].files for card in usable}
    judging = {
        (card.name, word): plan_judge(shared, card, word, files[card.name]) for card in usable for word in shared.boards
    }
    judged = {
        **{(card.name, word): (one, 0.0, True) for card in usable for word, one in made[card.name][0].judged.items()},
        **asker.ask(judging, Judged, "check on boards"),
    }
    timing = {
        (card.name, word): plan_time(shared, card, word, files[card.name], run.name)
        for card in usable
        for word in shared.real
        if judged[card.name, word][0].refused is None
    }
    timed = asker.ask(timing, Timed, "time")
    for work in timing.values():  # they have served: the next check takes its own
        asker.store.forget(work.key)
    return {name: _collect(told, _pick(judged, name), _pick(timed, name), run) for name, told in made.items()}


def _pick(parts: Mapping[tuple[str, str], Told[T]], name: str) -> dict[str, Told[T]]:
    """The parts of one card, by provider."""
    return {word: told for (card, word), told in parts.items() if card == name}


def _collect(
    made: Told[Made], judged: Mapping[str, Told[Judged]], timed: Mapping[str, Told[Timed]], run: Run
) -> Answers:
    seconds = [taken for _, taken, _ in (made, *judged.values(), *timed.values())]
    return Answers(
        made=made[0],
        judged={word: told[0] for word, told in judged.items()},
        timed={word: told[0] for word, told in timed.items()},
        seconds=sum(seconds),
        notes=_note_resumed([word for word, told in timed.items() if told[2]], run),
    )


def _note_resumed(words: Sequence[str], run: Run) -> tuple[str, ...]:
    if not words:
        return ()
    return (f"times on {', '.join(words)} were taken before this check was stopped; it began at {run.began}",)


def _describe_device(cluster: str | None) -> list[str]:
    if cluster is not None and not cluster.startswith("local:"):
        return [cluster]
    host = open_target(parse_provider(MAKER)).run(Job(kind="probe")).host
    return [host.cpu, *host.isa]
