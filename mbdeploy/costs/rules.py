"""RULES: every finding that ``inspect`` can make, by id, with what it looks for in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from mbdeploy.costs import guidelines, islands, quantization
from mbdeploy.costs.report import Finding
from mbdeploy.costs.subject import Subject


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """A rule: what it looks for, and the function that looks."""

    sentence: str
    check: Callable[[Subject], Finding | None]


RULES: dict[str, Rule] = {
    "MB101": Rule(
        sentence="1x1 convolutions whose input and output widths differ so much that they move far more than need be.",
        check=guidelines.check_widths,
    ),
    "MB102": Rule(
        sentence="Group convolutions, which move more for the same multiply-adds than dense ones.",
        check=guidelines.check_groups,
    ),
    "MB103": Rule(
        sentence="Maps that several convolutions read, where one larger convolution would run faster.",
        check=guidelines.check_fragments,
    ),
    "MB104": Rule(
        sentence="Element-wise nodes and copies: no multiply-adds, but many bytes.",
        check=guidelines.check_elementwise,
    ),
    "MB105": Rule(
        sentence="Convolutions whose widths are no multiple of 8, so that they compute channels that do not exist.",
        check=guidelines.check_vectors,
    ),
    "MB201": Rule(
        sentence="Nodes that stay in float between int8 ones, what causes them and what the way there and back costs.",
        check=islands.check_islands,
    ),
    "MB202": Rule(
        sentence="Depthwise weights whose channels differ so much that one scale for all would erase some.",
        check=quantization.check_spread,
    ),
    "MB203": Rule(
        sentence="Activations without an upper bound, and the resolution that they lose beside ReLU6.",
        check=quantization.check_unbounded,
    ),
    "MB204": Rule(
        sentence="Layers that saturate on x86 without VNNI unless their weight scales are pair-safe.",
        check=quantization.check_clipping,
    ),
    "MB205": Rule(
        sentence="Biases that overflow int32 beside tiny weights in the same channel.",
        check=quantization.check_bias,
    ),
}


def check_rules(subject: Subject, ignore: Collection[str] = ()) -> tuple[Finding, ...]:
    """What every rule that is not ignored finds, in the order of the table."""
    found = (rule.check(subject) for name, rule in RULES.items() if name not in ignore)
    return tuple(finding for finding in found if finding is not None)
