"""How far outputs are from their reference: sums that can be merged, the metrics they give, and gates over them."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbdeploy.results import Check, Metrics

_BLOCK_ELEMENTS = 1 << 20
#: An attribute varies if its values span more than this share of the largest.
_VARIES = 1e-3


class Sums(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is known after some images; sums of two parts of a data set are merged by ``merge_sums``.

    ``signal`` is Σ ref², ``noise`` Σ (ref − out)², ``energy`` Σ out², ``product`` Σ ref·out, all in
    float64. ``agree`` of ``voters`` class decisions are the same. ``ref_range`` and ``out_range`` are
    (lowest, highest); ``ref_spans`` and ``out_spans`` the same for each attribute of detections, (2, attributes).
    ``ref_first`` and ``out_first`` are the outputs for the first image, and ``ref_varies`` and ``out_varies`` whether
    any other image's differ from them.
    """

    images: int
    elements: int
    max_abs: float
    signal: float
    noise: float
    energy: float
    product: float
    agree: int
    voters: int
    ref_range: tuple[float, float]
    out_range: tuple[float, float]
    ref_spans: NDArray[Any]
    out_spans: NDArray[Any]
    ref_first: NDArray[Any]
    out_first: NDArray[Any]
    ref_varies: bool
    out_varies: bool
    fault: str | None = None


def compare_outputs(reference: ArrayLike, output: ArrayLike, scale: float | None = None) -> Metrics:
    """Metrics of ``output`` (n, …) against ``reference`` of the same shape; ``scale`` is one step of its INT8 grid."""
    return finish_sums(sum_outputs(reference, output), scale)


def sum_outputs(reference: ArrayLike, output: ArrayLike) -> Sums:
    """The sums over a batch (n, …).

    Rules: 1. class decisions are taken along axis 1 of (n, classes), and for each pixel of (n, classes,
    h, w); other shapes, and a single class, have none. 2. An array (n, a, b) holds detections: places, and at each its
    attributes, such as box and scores, which are the shorter one of the two axes. 3. Arrays of unlike shapes, empty
    ones, and NaN or infinity in either leave a ``fault`` and count nothing. 4. Blocks of images are summed one by one,
    so that float64 copies stay small.
    """
    ref, out = np.asarray(reference), np.asarray(output)
    fault = _find_fault(ref, out)
    if fault is not None:
        return _empty_sums(fault)
    rows = max(1, _BLOCK_ELEMENTS * len(ref) // ref.size)
    blocks = (slice(start, start + rows) for start in range(0, len(ref), rows))
    return functools.reduce(merge_sums, (_sum_block(ref[block], out[block]) for block in blocks))


def merge_sums(first: Sums, second: Sums) -> Sums:
    """The sums over the images of both; the first fault stays."""
    if first.fault is not None or second.fault is not None:
        return first if first.fault is not None else second
    if first.ref_first.shape != second.ref_first.shape:
        return _empty_sums(f"shapes that change: {first.ref_first.shape} and {second.ref_first.shape} an image")
    return Sums(
        images=first.images + second.images,
        elements=first.elements + second.elements,
        max_abs=max(first.max_abs, second.max_abs),
        signal=first.signal + second.signal,
        noise=first.noise + second.noise,
        energy=first.energy + second.energy,
        product=first.product + second.product,
        agree=first.agree + second.agree,
        voters=first.voters + second.voters,
        ref_range=_merge_ranges(first.ref_range, second.ref_range),
        out_range=_merge_ranges(first.out_range, second.out_range),
        ref_spans=_merge_spans(first.ref_spans, second.ref_spans),
        out_spans=_merge_spans(first.out_spans, second.out_spans),
        ref_first=first.ref_first,
        out_first=first.out_first,
        ref_varies=first.ref_varies or second.ref_varies or not np.array_equal(first.ref_first, second.ref_first),
        out_varies=first.out_varies or second.out_varies or not np.array_equal(first.out_first, second.out_first),
    )


def finish_sums(sums: Sums, scale: float | None = None) -> Metrics:
    """The metrics that the sums give; NaN throughout, with the reason, where none may be believed.

    Rules: degenerate is 1. whatever left a fault; 2. a reference or an output that is one value
    throughout (of more than one); 3. an output that is the same for every image where the reference is not; 4. an
    attribute of detections that is one value throughout where the reference's is not: beside boxes of hundreds of
    pixels, scores that are all zero would be a small error.
    """
    reason = sums.fault
    if reason is None and not math.isfinite(sums.signal + sums.noise + sums.energy):
        reason = "values whose squares overflow"
    if reason is None and sums.noise == 0 < sums.max_abs:
        reason = "differences so small that their squares vanish"
    if reason is None and sums.elements > 1:
        for name, (low, high) in (("reference", sums.ref_range), ("output", sums.out_range)):
            if low == high:
                reason = reason or f"constant {name}: every value is {low:g}"
        if sums.ref_varies and not sums.out_varies:
            reason = reason or f"constant output: the same for all {sums.images} images"
        if lost := _count_lost(sums.ref_spans, sums.out_spans):
            told = f"constant output: {lost} of {sums.ref_spans.shape[1]} attributes, which vary in the reference"
            reason = reason or told
    if reason is not None:
        nan = math.nan
        return Metrics(
            images=sums.images, elements=sums.elements, max_abs=nan, sqnr_db=nan, cosine=nan, degenerate=reason
        )
    return Metrics(
        images=sums.images,
        elements=sums.elements,
        max_abs=sums.max_abs,
        sqnr_db=_ratio_db(sums.signal, sums.noise),
        cosine=_cosine(sums),
        top1_agreement=sums.agree / sums.voters if sums.voters else None,
        max_lsb=sums.max_abs / scale if scale else None,
    )


def refuse_metrics(reason: str) -> Metrics:
    """The metrics of an output that does not exist."""
    nan = math.nan
    return Metrics(images=0, elements=0, max_abs=nan, sqnr_db=nan, cosine=nan, degenerate=reason)


def sum_errors(reference: NDArray[Any], output: NDArray[Any]) -> NDArray[np.float64]:
    """The squared error of each image, (n,), for arrays (n, …) that can be compared."""
    return np.array(
        [
            np.square(ref.astype(np.float64) - out.astype(np.float64)).sum()
            for ref, out in zip(reference, output, strict=True)
        ]
    )


def check(name: str, subject: str, value: float | None, bound: float, comparison: Literal[">=", "<="]) -> Check:
    """A gate; NaN, and a metric that does not exist (None), never pass."""
    number = math.nan if value is None else float(value)
    holds = number >= bound if comparison == ">=" else number <= bound
    return Check(name=name, subject=subject, value=number, bound=bound, comparison=comparison, passed=holds)


def _find_fault(ref: NDArray[Any], out: NDArray[Any]) -> str | None:
    if ref.shape != out.shape:
        return f"shape mismatch: reference {ref.shape}, output {out.shape}"
    if ref.ndim == 0 or ref.size == 0:
        return f"empty: shape {ref.shape}"
    for name, array in (("reference", ref), ("output", out)):
        if array.dtype.kind not in "fiub":
            return f"{name} of type {array.dtype}, which is not a real number"
        # In blocks would save memory; isfinite's answer is a byte an element, a quarter of the array.
        bad = array.size - int(np.count_nonzero(np.isfinite(array)))
        if bad:
            return f"non-finite {name}: {bad} of {array.size} values are NaN or infinite"
    return None


def _sum_block(ref: NDArray[Any], out: NDArray[Any]) -> Sums:
    a, b = ref.astype(np.float64).ravel(), out.astype(np.float64).ravel()
    agree, voters = _count_agreement(ref, out)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # finish_sums calls these by their names
        error = a - b
        signal, noise, energy, product = (float(x @ y) for x, y in ((a, a), (error, error), (b, b), (a, b)))
    return Sums(
        images=len(ref),
        elements=ref.size,
        max_abs=float(np.max(np.abs(error))),
        signal=signal,
        noise=noise,
        energy=energy,
        product=product,
        agree=agree,
        voters=voters,
        ref_range=(float(a.min()), float(a.max())),
        out_range=(float(b.min()), float(b.max())),
        ref_spans=_find_spans(ref),
        out_spans=_find_spans(out),
        ref_first=np.array(ref[0]),
        out_first=np.array(out[0]),
        ref_varies=bool((ref != ref[:1]).any()),
        out_varies=bool((out != out[:1]).any()),
    )


def _count_agreement(ref: NDArray[Any], out: NDArray[Any]) -> tuple[int, int]:
    if ref.ndim not in (2, 4) or ref.shape[1] < 2:
        return 0, 0
    same = ref.argmax(axis=1) == out.argmax(axis=1)
    return int(np.count_nonzero(same)), same.size


def _empty_sums(fault: str) -> Sums:
    nothing: NDArray[Any] = np.zeros(0)
    return Sums(
        images=0,
        elements=0,
        max_abs=math.nan,
        signal=0.0,
        noise=0.0,
        energy=0.0,
        product=0.0,
        agree=0,
        voters=0,
        ref_range=(math.nan, math.nan),
        out_range=(math.nan, math.nan),
        ref_spans=nothing,
        out_spans=nothing,
        ref_first=nothing,
        out_first=nothing,
        ref_varies=False,
        out_varies=False,
        fault=fault,
    )


def _merge_ranges(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    return min(first[0], second[0]), max(first[1], second[1])


def _find_spans(array: NDArray[Any]) -> NDArray[np.float64]:
    """The lowest and the highest value of each attribute: of none where these are no detections."""
    if array.ndim != 3:
        return np.zeros((2, 0))
    others = (0, 2) if array.shape[1] <= array.shape[2] else (0, 1)
    return np.stack([array.min(axis=others), array.max(axis=others)]).astype(np.float64)


def _merge_spans(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    return np.stack([np.minimum(first[0], second[0]), np.maximum(first[1], second[1])])


def _count_lost(reference: NDArray[Any], output: NDArray[Any]) -> int:
    """How many attributes vary in the reference and not in the output."""
    varies = reference[1] - reference[0] > _VARIES * np.abs(reference).max(axis=0)
    return int(np.count_nonzero(varies & (output[0] == output[1])))


def _ratio_db(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _cosine(sums: Sums) -> float:
    norm = math.sqrt(sums.signal) * math.sqrt(sums.energy)
    return min(1.0, max(-1.0, sums.product / norm)) if norm > 0 else math.nan
