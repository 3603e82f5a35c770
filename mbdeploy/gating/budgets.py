"""Budgets from measurement: what was measured, the slack that is stated, and the card's lines that hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from mbdeploy.card import Budgets, load_card
from mbdeploy.errors import CardError, DataError
from mbdeploy.estimate import estimate_proportion
from mbdeploy.gating.measured import Measured
from mbdeploy.results import Metrics

_ROOM_ABS, _ROOM_DB, _ROOM_TIME = 10.0, 2.0, 1.1
_LEAST_ABS, _LEAST_GAP_DB = 1e-5, 0.3


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """One budget: its key, what was measured, the value that is frozen, and the slack between them in words."""

    key: str
    measured: float
    value: float
    slack: str


def derive_budgets(measured: Sequence[Measured], *, with_latency: bool = False) -> tuple[Budget, ...]:
    """Budgets that the measured files hold, the worst provider's figure deciding.

    Rules: 1. differences of float files get ten times the measured, at least 1e-5: kernels of other CPUs round
    otherwise. 2. SQNR gets 2 dB less. 3. Agreement gets the lower end of the 95 % interval that so many images leave.
    4. The gap to the exact run gets 0.3 dB beyond what was measured. 5. Time, only ``with_latency``, gets a tenth more
    than the upper end of its interval: it holds for this host alone.

    Raises:
        DataError: figures that are no numbers, which no budget may come from.
    """
    metrics = {
        variant: [fact.executed for part in measured for fact in part.parity if fact.model == variant and fact.executed]
        for variant in ("fp32", "simplified", "int8")
    }
    for variant, found in metrics.items():
        reason = next((one.degenerate for one in found if one.degenerate), None if found else "never measured")
        if reason:
            raise DataError(
                where=variant,
                expected="outputs to set budgets from",
                found=reason,
                todo="see `mbdeploy verify` on this file",
            )
    gaps = [check.value for part in measured for check in part.checks if check.name == "exact_gap_db"]
    if not gaps or not all(map(math.isfinite, gaps)):
        raise DataError(
            where="int8",
            expected="a gap to the exact run to set a budget from",
            found=f"{gaps[0] if gaps else 'none'}",
            todo="see `mbdeploy verify` on this file",
        )
    budgets = [
        *(_bound_difference(key, metrics[variant]) for variant, key in _DIFFERENCES.items()),
        _bound_noise(metrics["int8"]),
        *_bound_agreement(metrics["int8"]),
        Budget(
            key="int8_exact_gap_db",
            measured=max(gaps),
            value=_round_up(max(0.0, *gaps) + _LEAST_GAP_DB, 2),
            slack=f"{_LEAST_GAP_DB} dB",
        ),
    ]
    if with_latency:
        ratios = [model.ratio for part in measured for fact in part.latency for model in fact.models if model.ratio]
        worst = max(ratios, key=lambda ratio: ratio.high)
        value = _round_up(worst.high * _ROOM_TIME, 3)
        budgets.append(Budget(key="latency_ratio", measured=worst.value, value=value, slack="10 % on the interval"))
    return tuple(budgets)


_DIFFERENCES: Mapping[str, str] = {"fp32": "export_max_abs", "simplified": "simplify_max_abs"}


def write_lines(budgets: Sequence[Budget]) -> list[str]:
    """The lines of a card's [budgets] table, each with its measurement and slack beside it."""
    return [f"{one.key} = {_say(one.value)}  {_comment(one)}" for one in budgets]


def replace_lines(text: str, budgets: Sequence[Budget]) -> str:
    """A card's text with these budgets in place of its own; all else, comments too, stays.

    Lines of other budgets stay; keys that were not there come behind the table's header, which is added if need be.
    """
    lines, missing = text.splitlines(), {one.key: one for one in budgets}
    inside, header = False, None
    for index, line in enumerate(lines):
        if re.match(r"\s*\[", line):
            inside = re.match(r"\s*\[\s*budgets\s*\]", line) is not None
            header = index if inside else header
        elif inside and (match := re.match(r"\s*(\w+)\s*=", line)) and match[1] in missing:
            lines[index] = write_lines([missing.pop(match[1])])[0]
    if header is None:
        lines += ["", "[budgets]"]
        header = len(lines) - 1
    lines[header + 1 : header + 1] = write_lines(list(missing.values()))
    return "\n".join(lines) + "\n"


def check_text(text: str, budgets: Sequence[Budget], where: Path, scratch: Path) -> Budgets:
    """The budgets that this text of a card gives, read as ``load_card`` reads it.

    Raises:
        CardError: other budgets than these: the card writes them in a way that cannot be edited line by line.
    """
    copy = scratch / where.name
    copy.write_text(text, encoding="utf-8")
    try:
        found = load_card(copy).budgets
    except CardError as error:
        found = None
        cause: Exception | None = error
    else:
        cause = None
    if found is None or any(getattr(found, one.key) != one.value for one in budgets):
        raise CardError(
            where=where,
            expected="budgets in a table of their own, one a line",
            found="another way of writing them",
            todo="write them below a line `[budgets]`, and run this again",
        ) from cause
    return found


def _bound_difference(key: str, found: Sequence[Metrics]) -> Budget:
    worst = max(one.max_abs for one in found)
    value = max(_LEAST_ABS, _round_significant(worst * _ROOM_ABS))
    return Budget(key=key, measured=worst, value=value, slack=f"{_ROOM_ABS:.0f} times, at least {_LEAST_ABS:g}")


def _bound_noise(found: Sequence[Metrics]) -> Budget:
    worst = min(one.sqnr_db for one in found)
    value = math.floor(10 * min(worst - _ROOM_DB, 100.0)) / 10  # equal outputs have infinite SQNR, which TOML may not
    return Budget(key="int8_sqnr_db", measured=worst, value=value, slack=f"{_ROOM_DB:g} dB")


def _bound_agreement(found: Sequence[Metrics]) -> list[Budget]:
    shares = [(one.top1_agreement, one.images) for one in found if one.top1_agreement is not None]
    if not shares:
        return []
    worst, images = min(shares)
    low = estimate_proportion(round(worst * images), images).low
    slack = f"the 95 % interval of {images} images"
    return [
        Budget(key="int8_top1_agreement", measured=worst, value=math.floor(100 * low) / 100, slack=slack),
    ]


def _round_significant(value: float) -> float:
    return float(f"{value:.1g}")


def _round_up(value: float, digits: int) -> float:
    steps = float(10**digits)
    return math.ceil(value * steps) / steps


def _say(value: float) -> str:
    text = f"{value:.6g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _comment(one: Budget) -> str:
    return f"# measured {one.measured:.4g}, slack: {one.slack}"
