"""Whether the calibration images were enough: how far the scales would have moved with other or fewer images.

Images are observed in groups drawn by content (``calibration_file.GROUPS``). A learning curve comes from the first
group, two, four and all; the spread of each scale from leaving out one group at a time (delete-a-group jackknife,
Kott 2001: the variance is (G - 1) / G times the sum of squared deviations). A bootstrap would have to choose all scales
a hundred times where this does it once a group, which for mse and entropy takes longer than to observe the images.
"""

from __future__ import annotations

import statistics

import numpy as np
from numpy.typing import NDArray

from mbdeploy.quant.calibrate import Observations
from mbdeploy.quant.calibration_file import GROUPS, Seen, merge_groups
from mbdeploy.quant.ranges import choose_scale
from mbdeploy.records import (
    Adequacy,
    CurvePoint,
    Spread,
    Widener,
)

#: Enough is: twice the images moved scales by no more than this, in the middle and at worst; and so for the spread.
MEDIAN_LIMIT, WORST_LIMIT = 0.02, 0.15
#: Images that widen ranges, named at most.
_MOST = 5


def judge_images(seen: Seen, method: str) -> Adequacy:
    """How the scales by ``method`` depend on the images that were seen.

    Raises:
        DataError, ModelError: nothing was seen, or activations are not finite.
    """
    whole = seen.whole()
    final = _find_scales(whole, method)
    curve: list[CurvePoint] = []
    for count in (1, 2, 4, GROUPS):
        part = whole if count == GROUPS else merge_groups(seen, range(count))
        if part.images and (not curve or part.images > curve[-1].images):
            scales = final if part is whole else _find_scales(part, method)
            moved = {name: abs(scale / final[name] - 1) for name, scale in scales.items()}
            worst = max(moved, key=lambda name: moved[name])
            curve.append(
                CurvePoint(
                    images=part.images, median=statistics.median(moved.values()), worst=moved[worst], tensor=worst
                )
            )
    spread = _measure_spread(seen, method, final)
    enough, sentence = _conclude(curve, spread)
    return Adequacy(
        images=whole.images,
        method=method,
        curve=tuple(curve),
        spread=tuple(sorted(spread, key=lambda one: -one.relative_error)),
        median_error=statistics.median(one.relative_error for one in spread) if spread else None,
        wideners=_find_wideners(whole, seen.names),
        enough=enough,
        sentence=sentence,
    )


def _find_scales(seen: Observations, method: str) -> dict[str, float]:
    return {name: choose_scale(ends, signed=False).scale for name, ends in seen.choose(method).ranges.items()}


def _measure_spread(seen: Seen, method: str, final: dict[str, float]) -> list[Spread]:
    filled = [number for number, group in enumerate(seen.groups) if group.images]
    if len(filled) < 2:
        return []
    without = [
        _find_scales(merge_groups(seen, [other for other in filled if other != left]), method) for left in filled
    ]
    found = []
    for name, scale in final.items():
        values = np.array([scales[name] for scales in without])
        variance = (len(filled) - 1) / len(filled) * float(np.square(values - values.mean()).sum())
        found.append(Spread(tensor=name, scale=scale, relative_error=variance**0.5 / scale))
    return found


def _find_wideners(whole: Observations, names: dict[int, str]) -> tuple[Widener, ...]:
    """The images without which some tensor's range would be narrower, the largest share first."""
    extremes = whole.extremes or {}
    if len(extremes) < 2:
        return ()
    keys = sorted(extremes)
    values = np.stack([extremes[key] for key in keys])  # (images, tensors, 2)
    tensors = list(whole.ranges.low)
    shrunk = _shrink_without(values[:, :, 1]) + _shrink_without(-values[:, :, 0])
    width = np.maximum(values[:, :, 1].max(axis=0), 0) - np.minimum(values[:, :, 0].min(axis=0), 0)
    share = shrunk / np.maximum(width, 1e-30)
    order = np.argsort(-share.max(axis=1), kind="stable")[:_MOST]
    return tuple(
        Widener(
            image=names.get(keys[image], f"{keys[image]:08x}"),
            tensors=int((share[image] > 0).sum()),
            share=float(share[image].max()),
            tensor=tensors[int(share[image].argmax())],
        )
        for image in order.tolist()
        if share[image].max() > 0
    )


def _shrink_without(highs: NDArray[np.float32]) -> NDArray[np.float64]:
    """(images, tensors): by how much the largest value (0 at least) falls when the image is left out."""
    clipped = np.maximum(highs.astype(np.float64), 0)
    second, first = np.sort(clipped, axis=0)[-2:]
    return np.asarray(np.where(clipped == first, first - second, 0.0))


def _conclude(curve: list[CurvePoint], spread: list[Spread]) -> tuple[bool, str]:
    if len(curve) < 2 or not spread:
        return False, f"Not enough: {curve[-1].images} images say nothing of their own spread; give more."
    half = curve[-2]
    errors = [one.relative_error for one in spread]
    typical, worst = statistics.median(errors), max(errors)
    steady = half.median <= MEDIAN_LIMIT and half.worst <= WORST_LIMIT
    tight = typical <= MEDIAN_LIMIT and worst <= WORST_LIMIT
    facts = (
        f"from {half.images} to {curve[-1].images} images the scales moved by {half.median:.1%} in the middle and "
        f"{half.worst:.0%} at most; their standard error (jackknife) is {typical:.1%}, {worst:.0%} at most"
    )
    if steady and tight:
        return True, f"Enough: {facts}."
    return (
        False,
        f"Not enough: {facts}. Give more images, or choose ranges by mse or percentile, which leave tails out.",
    )
