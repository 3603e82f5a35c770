"""RULES: every finding that ``audit`` can make, by id, with what it looks for in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from mbdeploy.auditing import checks
from mbdeploy.auditing.report import Finding, Severity, Spot


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: how bad it is, what it looks for, what to do about it, and the function that looks.

    The function gives a summary and the places, or nothing.
    """

    title: str
    severity: Severity
    sentence: str
    change: str
    check: Callable[[checks.Facts], tuple[str, list[Spot]]]


RULES: dict[str, Rule] = {
    "MB301": Rule(
        title="saturation without VNNI",
        severity="error",
        sentence="Products of neighbouring weights that leave int16 on x86 without VNNI.",
        change="repair it with --repair, or quantize with mbdeploy",
        check=checks.check_pairs,
    ),
    "MB302": Rule(
        title="overflow without dot product",
        severity="error",
        sentence="Channels with several weights of -128, whose products leave int16 on ARM without dot product.",
        change="repair it with --repair, or quantize weights to -127..127",
        check=checks.check_twins,
    ),
    "MB303": Rule(
        title="impossible scales",
        severity="error",
        sentence="Scales that are zero, negative, infinite or NaN.",
        change="quantize again; a channel or tensor without values wants any scale above zero",
        check=checks.check_scales,
    ),
    "MB304": Rule(
        title="tiny scales",
        severity="warning",
        sentence="Scales so small that float32 cannot hold them in full: some CPUs take them as zero.",
        change="give what is dead a scale such as 1/127, or leave it out",
        check=checks.check_tiny,
    ),
    "MB305": Rule(
        title="zero points that do not fit",
        severity="error",
        sentence="Zero points of another type than their tensor, or of weights that differ from channel to channel.",
        change="quantize again with one type a tensor, and weights around one zero point",
        check=checks.check_zeros,
    ),
    "MB306": Rule(
        title="int32 bias overflow",
        severity="error",
        sentence="Biases cut off at int32's end, or so large that adding the sum of products can leave int32.",
        change="repair it with --repair, which widens these channels' scales; what was cut off is lost",
        check=checks.check_bias,
    ),
    "MB307": Rule(
        title="scale of the bias",
        severity="error",
        sentence="Biases whose scale is not input scale x weight scale, which integer kernels assume.",
        change="quantize the bias again with that scale",
        check=checks.check_bias_scale,
    ),
    "MB308": Rule(
        title="depthwise weights per tensor",
        severity="warning",
        sentence="Depthwise layers on one weight scale for all, where some channels keep fewer than 8 levels.",
        change="quantize weights per channel; what is lost cannot be repaired without the float file",
        check=checks.check_spread,
    ),
    "MB309": Rule(
        title="Q/DQ that do not fuse",
        severity="warning",
        sentence="Layers between Q/DQ pairs that run in float all the same, float islands, and the time they take.",
        change="see the reason at each place; `mbdeploy quantize` places pairs where ONNX Runtime fuses them",
        check=checks.check_fusing,
    ),
    "MB310": Rule(
        title="refused by ONNX Runtime",
        severity="error",
        sentence="Files that ONNX Runtime's CPU provider does not load.",
        change="see what it says; operators of 8-bit types without a kernel want another format, such as Q/DQ",
        check=checks.check_loading,
    ),
    "MB311": Rule(
        title="products that could not be judged",
        severity="warning",
        sentence="Integer products whose weights are not stored, or whose scales do not fit them.",
        change="see the reason at each place",
        check=checks.check_unjudged,
    ),
    "MB312": Rule(
        title="joined at one scale",
        severity="warning",
        sentence="Tensors that a Concat joins with much larger ones, so that fewer than 8 levels are left to them.",
        change="leave the Concat in float, as `mbdeploy quantize` does where a detector joins boxes and scores",
        check=checks.check_crushed,
    ),
}


def check_rules(facts: checks.Facts) -> tuple[Finding, ...]:
    """What every rule finds, in the order of the table."""
    found = []
    for name, rule in RULES.items():
        summary, spots = rule.check(facts)
        if spots:
            times = [spot.time_share for spot in spots if spot.time_share is not None]
            found.append(
                Finding(
                    rule=name,
                    severity=rule.severity,
                    title=rule.title,
                    summary=summary,
                    change=rule.change,
                    spots=tuple(spots),
                    time_share=sum(times) if times else None,
                )
            )
    return tuple(found)
