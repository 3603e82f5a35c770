"""From measured files to the one to take: what each is worth, who is on the front, and why this one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from mbdeploy.card import ModelCard
from mbdeploy.derive import choose_clock, estimate_time
from mbdeploy.pareto import is_beaten
from mbdeploy.results import BenchRun
from mbdeploy.searching.asked import Asked
from mbdeploy.searching.jobs import Profiled
from mbdeploy.searching.predictor import Measured
from mbdeploy.searching.report import Found, Quality
from mbdeploy.searching.target import judge_latency
from mbdeploy.sweeping.jobs import Made
from mbdeploy.sweeping.variants import read_alpha


def read_quality(made: Made, quality: Quality) -> float:
    """Top-1 as a share; or, for ``sqnr``, the share of the outputs' power that is no error against their own FP32."""
    if quality == "top1":
        return math.nan if made.top1 is None else made.top1.value
    return float(1 / (1 + math.pow(10, -made.sqnr_db / 10)))


def describe_measured(name: str, profiled: Profiled, run: BenchRun, number: int) -> Measured:
    """File ``number`` of a variant that was timed and profiled, as the predictor takes it."""
    profile = profiled.files[number] if profiled.files else None
    return Measured(
        name=name,
        layers=profiled.layers,
        latency_ns=estimate_time(run, number, unit_ns=1.0).value,
        layers_us=profile.layers_us if profile else None,
        profile_us=profile.run_us if profile else 0.0,
    )


def make_row(
    asked: Asked,
    card: ModelCard,
    made: Made,
    run: BenchRun,
    index: int,
    predicted_ns: float | None,
    keep_float: tuple[str, ...],
) -> Found:
    """Series ``index`` of a run as a result; a file that nothing was predicted for is a mix."""
    latency, quality = estimate_time(run, index, unit_ns=1.0), read_quality(made, asked.quality)
    return Found(
        variant=card.name,
        alpha=read_alpha(card),
        size=card.preprocess.size,
        recipe=made.recipe,
        path=made.path,
        sha256=made.sha256,
        predicted_ns=predicted_ns,
        latency=latency,
        clock=choose_clock(run),
        quality=quality,
        top1=made.top1,
        sqnr_db=made.sqnr_db,
        reward=asked.reward(quality, latency.value),
        verdict=judge_latency(latency, asked.target_ns),
        size_bytes=made.size_bytes,
        keep_float=keep_float if predicted_ns is None else (),
    )


def mark_front(rows: Sequence[Found]) -> list[Found]:
    """The rows, each told whether no other is at least as good and as fast, and better in one."""

    costs = [(-row.quality, row.latency.value) for row in rows]
    return [
        msgspec.structs.replace(row, on_front=not is_beaten(own, costs)) for row, own in zip(rows, costs, strict=True)
    ]


def choose_row(rows: Sequence[Found], target_ns: float) -> tuple[int | None, str]:
    """Which row to take, and why.

    Rules: 1. the highest reward of those that meet the target. 2. Else of those that may meet it. 3. Else none. 4. A
    reward that is no number is none.
    """
    target = f"{target_ns / 1e6:.4g} ms"
    for verdict, words in (("met", "meet"), ("inconclusive", "may meet")):
        able = [index for index, row in enumerate(rows) if row.verdict == verdict and not math.isnan(row.reward)]  # 4.
        if able:
            best = max(able, key=lambda index: (rows[index].reward, -rows[index].latency.value))
            reason = f"the highest reward of {len(able)} of {len(rows)} measured files that {words} {target}"
            if verdict == "inconclusive":
                reason += "; measure longer (--min-duration, --processes) to tell"
            return best, reason
    if not rows:
        return None, "nothing was measured"
    nearest = min(rows, key=lambda row: row.latency.value)
    fastest = f"{nearest.recipe} of {nearest.variant} with {nearest.latency.value / 1e6:.4g} ms"
    return None, f"no measured file meets {target}; the fastest is {fastest}"
