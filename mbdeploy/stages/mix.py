"""The search for the best mix of INT8 and float: effects of single moves, a path of measured mixes, and a choice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.estimate import Interval
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.mixing.front import mark_front
from mbdeploy.mixing.path import measure_gain, rank_faster, rank_helpful, weigh
from mbdeploy.mixing.report import Effect, Goals, MixReport, Move
from mbdeploy.mixing.turns import Turns, compare_turns
from mbdeploy.model_file import describe_model
from mbdeploy.stages.mix_measure import Laboratory
from mbdeploy.watch import Limits

_LIST_STEP = "mbdeploy.stages.mix_job:list_moves"
_PLACE_STEP = "mbdeploy.stages.mix_job:place_mixes"
#: Mixes beside all-INT8 that are made and measured, at most.
_MOST_STEPS = 10
#: Moves that are tried behind a mix before the next one is chosen.
_CANDIDATES = 5
#: Moves that are timed in one process, by turns with all-INT8.
_AT_ONCE = 6
#: What the files of moves may take on disk.
_SCRATCH_BYTES = 2 * 1024**3
ALL_INT8 = "all in INT8"


def search(
    model: Path,
    kit: Path,
    scratch: Path,
    laboratory: Laboratory,
    *,
    goals: Goals,
    keep_float: Sequence[str] = (),
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> MixReport:
    """Find out which layers of the float ``model`` deserve INT8, from the kit that ``quantize`` left.

    Rules: 1. every move (:func:`mbdeploy.mixing.moves.find_moves`) is measured on its own, in whole files: the
    outputs' SQNR with these layers alone in float and alone in INT8, and the time by turns with all-INT8. 2. A path of
    mixes goes from all-INT8 first to what is faster, then to what takes most error off for its time; it ends after
    ``_MOST_STEPS``. 3. All mixes are timed by turns with optimised FP32. None is chosen yet. ``laboratory`` is where
    all of it is measured. ``keep_float`` stays in float in every mix. ``scratch`` is a folder for files; nothing is
    written besides.

    Raises:
        UsageError: a name in ``keep_float`` that no node has. StepError: as ``bench``.
    """
    place = _Placer(model, kit, scratch, limits)
    listed = place.ask(_LIST_STEP, {"keep_float": list(keep_float)})
    moves, asked = msgspec.convert(listed["moves"], list[Move]), tuple(listed["kept"])
    everything = place.make([asked])[0]
    turns: list[Turns] = []
    effects = _measure_effects(moves, asked, everything, place, laboratory, turns, on_progress)
    made = _walk(effects, asked, everything, place, laboratory, turns, on_progress)
    mixes, timed = laboratory.measure_mixes(made, goals)
    return MixReport(
        model=describe_model(model),
        provider=laboratory.provider.word,
        threads=laboratory.threads,
        host=laboratory.host,
        data=laboratory.source,
        images=len(laboratory.images),
        labelled=laboratory.labels is not None,
        held_out=laboratory.held_out,
        goals=goals,
        effects=tuple(effects),
        mixes=tuple(mark_front(mixes)),
        made=(),
        chosen=None,
        reason="",
        final=None,
        checks=(),
        turns=(*turns, timed),
    )


class _Placer:
    """Makes mixed files in a scratch folder, in children."""

    def __init__(self, model: Path, kit: Path, scratch: Path, limits: Limits | None) -> None:
        self._model, self._kit, self._scratch, self._limits = model, kit, scratch, limits
        self._count = 0

    def ask(self, step: str, request: Mapping[str, Any]) -> Any:
        outcome = run_step(step, {"kit": str(self._kit), **request}, limits=self._limits)
        return demand_value(
            outcome,
            where=self._model,
            expected="the search to run to its end",
            todo="check the limits; without goals, `mbdeploy quantize` needs no search",
        )

    def make(self, mixes: Sequence[Sequence[str]], alone: Sequence[Sequence[str]] = ()) -> list[Path]:
        """One file for each set of nodes that stay in float, then one for each set of layers alone in INT8."""
        paths = [self._scratch / f"mix_{self._count + index}.onnx" for index in range(len(mixes) + len(alone))]
        self._count += len(paths)
        names = [str(path) for path in paths]
        request = {
            "mixes": dict(zip(names, map(list, mixes), strict=False)),
            "alone": dict(zip(names[len(mixes) :], map(list, alone), strict=True)),
        }
        self.ask(_PLACE_STEP, request)
        return paths


def _measure_effects(
    moves: Sequence[Move],
    asked: tuple[str, ...],
    everything: Path,
    place: _Placer,
    laboratory: Laboratory,
    turns: list[Turns],
    on_progress: Progress,
) -> list[Effect]:
    """What each move does on its own; the times that say so are added to ``turns``."""
    effects: list[Effect] = []
    size = max(_AT_ONCE, _SCRATCH_BYTES // (5 * everything.stat().st_size))  # a float file takes four times as much
    for start in range(0, len(moves), size):
        chunk = moves[start : start + size]
        paths = place.make([asked + move.layers for move in chunk], [move.layers for move in chunk])
        found = laboratory.measure_sqnr(paths)
        spared = [(move.name, path) for move, path in zip(chunk, paths, strict=False)]
        ratios: dict[str, Interval] = {}
        for first in range(0, len(spared), _AT_ONCE):
            on_progress("moves", start + first, len(moves))
            turns.append(laboratory.time_against((ALL_INT8, everything), dict(spared[first : first + _AT_ONCE])))
            ratios |= compare_turns(turns[-1])
        for move, spared_db, alone_db in zip(chunk, found, found[len(chunk) :], strict=False):
            effects.append(Effect(move=move, ratio=ratios[move.name], spared_db=spared_db, alone_db=alone_db))
        for path in paths:
            path.unlink()
    on_progress("moves", len(moves), len(moves))
    return effects


def _walk(
    effects: Sequence[Effect],
    asked: tuple[str, ...],
    everything: Path,
    place: _Placer,
    laboratory: Laboratory,
    turns: list[Turns],
    on_progress: Progress,
) -> dict[str, tuple[Path, tuple[str, ...]]]:
    """Mixes by name, each one move more than the one before: a file, and its layers in float.

    Effects do not simply add up: a move that saved time on its own is timed again behind those before it, and of the
    most promising moves for accuracy the one is taken that does most behind those before it.
    """
    base_db = last_db = laboratory.measure_sqnr([everything])[0]
    made = {ALL_INT8: (everything, asked)}
    kept, last = asked, everything
    left = list(effects)
    while len(made) <= _MOST_STEPS:
        on_progress("mixes", len(made) - 1, _MOST_STEPS)
        faster = rank_faster(left, kept)[:1]
        tried = faster or rank_helpful(left, kept, base_db)[:_CANDIDATES]
        if not tried:
            break
        wider = [tuple(dict.fromkeys((*kept, *effect.move.layers))) for effect in tried]
        paths = place.make(wider)
        reached = laboratory.measure_sqnr(paths)
        best = max(range(len(tried)), key=lambda index: weigh(tried[index], reached[index], last_db))
        name = f"+ {tried[best].move.name}"
        if faster:
            turns.append(laboratory.time_against((next(reversed(made)), last), {name: paths[best]}))
            useful = compare_turns(turns[-1])[name].high < 1
        else:
            useful = measure_gain(reached[best], last_db) > 0
        if useful:
            kept, last, last_db = wider[best], paths[best], reached[best]
            made[name] = (last, kept)
            left.remove(tried[best])
        else:
            left = [effect for effect in left if effect not in tried]
        for path in paths:
            if path != last:
                path.unlink()
    on_progress("mixes", _MOST_STEPS, _MOST_STEPS)
    return made
