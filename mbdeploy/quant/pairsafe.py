"""Weight scales under which no CPU clips: u8 x s8 products of neighbouring weights always fit in 16 bits.

Without VNNI, x86 multiplies u8 by s8 with ``vpmaddubsw``, which adds the two products of a neighbouring
pair in int16 and saturates (Intel SDM, PMADDUBSW). With activations up to 255, a pair of weights is safe
if the sum of its same-signed members is at most 128 in magnitude: 255 * 128 = 32640 < 32768. ARM and
VNNI do not saturate there, so a file that is safe gives the same integers on all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Floats = NDArray[np.float64]

INT8_MAX = 127.0
#: What a same-signed pair of stored weights may come to.
LARGEST_SUM = 128
#: Half a step below that: rounding moves a pair's sum by at most one.
PAIR_LIMIT = 127.5


def plain_scales(view: Array) -> Floats:
    """Per output channel, the symmetric scale that maps the largest weight to 127; 0 for an all-zero channel.

    ``view`` is (channels, positions, input channels), as ``layers.view_reduction`` gives it.
    """
    largest: Floats = np.abs(view.reshape(len(view), -1)).max(axis=1).astype(np.float64)
    return largest / INT8_MAX


def pair_safe_scales(view: Array) -> Floats:
    """Per output channel, the smallest symmetric scale at which no neighbouring pair can saturate.

    Rules: 1. scale >= max|w| / 127. 2. scale >= P / 127.5, where P is the largest same-sign sum of two
    neighbours. 3. Neighbours are taken in both pairings in use: the flattened reduction order padded to
    even length (ONNX Runtime's MLAS), and each kernel position padded to even (oneDNN, so OpenVINO).
    """
    largest = np.maximum(
        pair_sums(view.reshape(len(view), 1, -1)).max(axis=(1, 2)),
        pair_sums(view).max(axis=(1, 2)),
    )
    safe: Floats = np.maximum(plain_scales(view), largest / PAIR_LIMIT)
    return safe


def pair_sums(view: NDArray[np.floating] | NDArray[np.integer]) -> Floats:
    """Magnitude of the same-signed sum of each neighbouring pair along the last axis, padded to even length.

    Shape (channels, positions, n) gives (channels, positions, ceil(n / 2)). Opposite signs count as the
    larger member alone, since an activation of 0 can silence the other.
    """
    values = view.astype(np.float64)
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1))], axis=-1)
    first, second = values[..., 0::2], values[..., 1::2]
    return np.asarray(np.maximum(np.abs(first + second), np.maximum(np.abs(first), np.abs(second))))


def find_clipping(integers: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Per output channel, whether some input could saturate it on an x86 CPU without VNNI.

    ``integers`` are 8-bit weights, in any integer type, as (channels, positions, input channels). A channel
    can clip if a pair of either pairing has a same-signed sum beyond 128. One member alone never is, so only
    sums matter, of either sign; and the pairings are the same where a position has an even number of channels.
    """
    flat = _largest_sum(integers.reshape(len(integers), 1, -1))
    largest = np.maximum(flat, _largest_sum(integers)) if integers.shape[-1] % 2 else flat
    return np.asarray(largest > LARGEST_SUM)


def find_partners(positions: int, channels: int, *, paired: bool) -> NDArray[np.intp]:
    """The neighbours of each term in both pairings in use (see ``pair_safe_scales``): shape (2, positions * channels).

    A term without a neighbour is its own; so is every one if kernels do not add in pairs (``paired``).
    """
    terms = np.arange(positions * channels)
    if not paired:
        return np.stack([terms, terms])
    flat = terms ^ 1
    within = terms % channels
    padded = terms - within + (within ^ 1)
    flat = np.where(flat < len(terms), flat, terms)
    padded = np.where((within ^ 1) < channels, padded, terms)
    return np.stack([flat, padded])


def _largest_sum(integers: NDArray[np.integer]) -> NDArray[np.int16]:
    first, second = integers[..., 0::2], integers[..., 1::2]
    sums = np.add(first[..., : second.shape[-1]], second, dtype=np.int16).reshape(len(integers), -1)
    return np.asarray(np.maximum(sums.max(axis=1, initial=0), -sums.min(axis=1, initial=0)))
