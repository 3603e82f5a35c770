"""Correct each bias for what rounding its layer's weights did to the layer's mean output.

Rounded weights miss the real ones by dW; over the calibration images that moves the mean of an output
channel by dW times the mean input. Taking it off the bias costs nothing at run time and leaves every
weight as it is. Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction" (arXiv:1906.04721), section 4.2, with observed instead of assumed means.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mbdeploy.quant.pairsafe import Array, Floats


def predict_shift(view: Array, integers: NDArray[np.integer], scales: NDArray[np.float32], mean: Floats) -> Floats:
    """How far rounding moves the mean of each output channel, in output units: shape (channels,).

    ``view`` holds the float weights and ``integers`` the stored ones, both (channels, positions, input
    channels of a group); ``mean`` is the mean of every input channel, groups one after the other. Zero
    padding at the border is left out of account.
    """
    error = integers * scales.astype(np.float64)[:, np.newaxis, np.newaxis] - view
    group_size = view.shape[2]
    groups = len(mean) // group_size
    inputs = np.repeat(mean.reshape(groups, group_size), len(view) // groups, axis=0)
    shift: Floats = np.einsum("opi,oi->o", error, inputs)
    return shift


class MeanObserver:
    """The mean of each channel of each tensor, exact in any order: sums of fixed-point numbers.

    Image means are rounded to 2^-26 and kept within 2^16 of zero, so that two million images fit in 63 bits.
    """

    _UNIT = float(1 << 26)
    _LARGEST = float(1 << 16)

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.int64]] = {}
        self.images = 0

    def update(self, means: dict[str, NDArray[np.float32]]) -> None:
        """Take in one image: the mean of every channel, by tensor."""
        self.images += 1
        for tensor, values in means.items():
            kept = np.clip(values.reshape(-1).astype(np.float64), -self._LARGEST, self._LARGEST)
            self._add(tensor, np.rint(kept * self._UNIT).astype(np.int64))

    def merge(self, other: MeanObserver) -> None:
        """Take in what another observer of the same tensors has seen."""
        self.images += other.images
        for tensor, sums in other.sums.items():
            self._add(tensor, sums)

    def read(self) -> dict[str, Floats]:
        """The means, by tensor; empty if no image was seen."""
        return {tensor: sums / self._UNIT / self.images for tensor, sums in self.sums.items()}

    def _add(self, tensor: str, addends: NDArray[np.int64]) -> None:
        self.sums[tensor] = self.sums[tensor] + addends if tensor in self.sums else addends
