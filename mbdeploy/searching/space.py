"""The variants that a search may choose from, and a few of them that lie far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from mbdeploy.card import ModelCard, load_card
from mbdeploy.errors import UsageError
from mbdeploy.sweeping.variants import identify_variant, list_variants, read_alpha

#: More networks than anybody wants to count.
_MOST = 1000


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One variant and its place: the card that it is derived from by number, its width and its input size."""

    variant: ModelCard
    family: int
    alpha: float
    size: int


def list_points(cards: Sequence[str], alpha: Sequence[float], rho: Sequence[int]) -> list[Point]:
    """Every card with every width and input size, each variant once.

    Raises:
        UsageError: more than a thousand, a card that is no network, two variants of one name. CardError: as load_card.
    """
    list_variants(cards, alpha, rho)  # refuses what a sweep does, in its words
    found: dict[str, Point] = {}
    for family, word in enumerate(dict.fromkeys(cards)):
        if load_card(word).net is None:
            raise UsageError(
                where=word,
                expected="a card with a net, whose layers can be counted before it is built",
                found="a factory or an ONNX file",
                todo="leave it out, or measure it with `mbdeploy sweep` or `bench`",
            )
        for variant in list_variants([word], alpha, rho):
            point = Point(
                variant=variant, family=family, alpha=read_alpha(variant) or 1.0, size=variant.preprocess.size
            )
            found.setdefault(identify_variant(variant), point)
    points = list(found.values())
    names = [point.variant.name for point in points]
    if len(points) > _MOST:
        raise UsageError(
            expected=f"{_MOST} variants at most", found=str(len(points)), todo="give fewer values for --alpha or --rho"
        )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(
            where=twice, expected="variants of different names", found="two of this one", todo="rename one card"
        )
    return points


def spread_points(points: Sequence[Point], count: int) -> list[Point]:
    """At most ``count`` of the points, far apart: the largest network, then always the one farthest from those taken.

    Distances are of logarithms of width and size, each over its range; another family is as far as a whole range.
    """
    if not points:
        return []
    ranges = [
        math.log(max(values) / min(values)) or 1.0
        for values in ([point.alpha for point in points], [point.size for point in points])
    ]

    def measure(one: Point, other: Point) -> float:
        width = math.log(one.alpha / other.alpha) / ranges[0]
        size = math.log(one.size / other.size) / ranges[1]
        return math.hypot(width, size, one.family != other.family)

    taken = [max(points, key=lambda point: (point.alpha, point.size))]
    while len(taken) < min(count, len(points)):
        left = [point for point in points if point not in taken]
        taken.append(max(left, key=lambda point: min(measure(point, other) for other in taken)))
    return taken
