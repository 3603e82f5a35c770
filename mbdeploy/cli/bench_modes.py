"""What ``mbdeploy bench`` does besides timing files against the first: tune, explain, scenarios, instructions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy.artifact import Provenance
from mbdeploy.cli.endings import judge_checks
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import EXIT_OK, UsageError
from mbdeploy.results import SCHEMA_VERSION

Mode = Callable[[Screen, Sequence[Path], "Path | None", dict[str, Any]], int]
#: Keywords that decide nothing about a result.
_NO_CHOICES = ("logs", "on_progress")
#: Keywords that hold several values for ``bench`` and one for the others.
_SINGLE = {"threads": "threads", "batch_size": "batch_size", "providers": "provider"}


def choose_mode(asked: dict[str, bool]) -> Mode | None:
    """The one mode that was asked for, None for none."""
    chosen = [name for name, given in asked.items() if given]
    if len(chosen) > 1:
        words = " and ".join(f"--{name}" for name in chosen)
        raise UsageError(where=words, expected="one of these", found=str(len(chosen)), todo="give them one at a time")
    return _MODES[chosen[0]] if chosen else None


def _count(screen: Screen, paths: Sequence[Path], output: Path | None, given: dict[str, Any]) -> int:
    from mbdeploy.stages.instructions import count, tabulate_instructions

    fitted = fit(count, "--instructions", given)
    with screen.progress() as on_progress:
        runs = count(paths, on_progress=on_progress, **fitted)
    result = {"schema_version": SCHEMA_VERSION, "runs": runs}
    screen.save(output, result, lambda: _plan("instructions", count, paths, fitted))
    screen.show(tabulate_instructions(runs), result)
    return EXIT_OK


def _tune(screen: Screen, paths: Sequence[Path], output: Path | None, given: dict[str, Any]) -> int:
    from mbdeploy.stages.bench_tune import tabulate_tuning, tune

    fitted = fit(tune, "--tune", given)
    with screen.progress() as on_progress:
        results = [tune(path, on_progress=on_progress, **fitted) for path in paths]
    saved = {"schema_version": SCHEMA_VERSION, "tuned": results}
    screen.save(output, saved, lambda: _join(_plan("tune", tune, [path], fitted) for path in paths))
    screen.show([table for result in results for table in tabulate_tuning(result)], saved)
    if screen.format != "json":
        for result in results:
            screen.write(f"\n```python\n{result.code}```" if screen.format == "md" else f"\n{result.code}")
    return EXIT_OK


def _explain(screen: Screen, paths: Sequence[Path], output: Path | None, given: dict[str, Any]) -> int:
    from mbdeploy.stages.bench_explain import explain
    from mbdeploy.stages.bench_explain_tables import tabulate_explanation

    fitted = fit(explain, "--explain", given)
    with screen.progress() as on_progress:
        result = explain(paths, on_progress=on_progress, **fitted)
    screen.save(output, result, lambda: _plan("explain", explain, paths, fitted))
    screen.show(tabulate_explanation(result), result)
    return EXIT_OK


def _run_scenario(screen: Screen, paths: Sequence[Path], output: Path | None, given: dict[str, Any]) -> int:
    from mbdeploy.stages.bench_scenario import judge_scenario, run_scenario, tabulate_scenario

    fitted = fit(run_scenario, "--scenario", given)
    logs = output.with_suffix(".loadgen") if output else paths[0].with_suffix(f".{fitted['scenario']}.loadgen")
    with screen.progress() as on_progress:
        runs = run_scenario(paths, logs=logs, on_progress=on_progress, **fitted)
    result = {"schema_version": SCHEMA_VERSION, "runs": runs}
    screen.save(output, result, lambda: _plan("scenario", run_scenario, paths, fitted))
    screen.show(tabulate_scenario(runs), result)
    return judge_checks(judge_scenario(run) for run in runs)


_MODES: dict[str, Mode] = {
    "instructions": _count,
    "tune": _tune,
    "explain": _explain,
    "scenario": _run_scenario,
}


def fit(function: Callable[..., Any], mode: str, given: dict[str, Any]) -> dict[str, Any]:
    """The options as keywords of ``function``; those that it has not, and lists where it takes one, are refused."""
    keywords = inspect.signature(function).parameters
    fitted: dict[str, Any] = {}
    for name, value in given.items():
        single = _SINGLE.get(name, "")
        if single in keywords and isinstance(value, tuple):
            if len(value) > 1:
                raise UsageError(
                    where=mode, expected=f"one value of --{_write(single)}", found=str(len(value)), todo="give one"
                )
            fitted[single] = value[0]
        elif name in keywords:
            fitted[name] = value
        else:
            raise UsageError(
                where=mode, expected="options that go with it", found=f"--{_write(name)}", todo="leave it out"
            )
    return fitted


def _plan(stage: str, function: Callable[..., Any], paths: Sequence[Path], fitted: dict[str, Any]) -> Provenance:
    """How a mode came to its result: it reads what ``bench`` reads, but has options of its own."""
    from mbdeploy.stages.bench import plan

    known = inspect.signature(function).parameters
    told = {
        name: fitted.get(name, known[name].default)
        for name in known
        if known[name].kind is inspect.Parameter.KEYWORD_ONLY
    }
    words = told.get("providers") or (told["provider"],)
    like = plan(paths, providers=words, inputs=told.pop("inputs", None), seed=told["seed"])
    reads = {role: sha256 for role, sha256 in like.parents.items() if role in known or role != "inputs"}
    params = {"host": like.params["host"], **{name: told[name] for name in told if name not in _NO_CHOICES}}
    return msgspec.structs.replace(like, stage=stage, params=params, parents=reads)


def _join(plans: Iterable[Provenance]) -> Provenance:
    """Of a mode that takes models one by one: each has inputs of its own, numbered as models are."""
    found = list(plans)
    if len(found) == 1:
        return found[0]
    parents = {
        f"{role.split()[0]} {index}": sha256
        for index, plan in enumerate(found)
        for role, sha256 in plan.parents.items()
    }
    return msgspec.structs.replace(found[0], parents=parents)


def _write(keyword: str) -> str:
    """A keyword as the option that gives it."""
    return keyword.replace("_", "-").replace("providers", "provider")
