"""How much of a layer goes wrong: the channels that can, from stored integers, and the outputs that do, on images."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.auditing.cpus import find_hazards
from mbdeploy.auditing.products import Product
from mbdeploy.quant.pairsafe import find_clipping
from mbdeploy.quant.patches import Window, choose_positions, read_window, take_patches

_INT16 = (-(1 << 15), (1 << 15) - 1)
_LEAST = -128
#: Pair sums held at once: 64 MB of int32.
_BLOCK = 1 << 24
_POSITIONS = 64


def find_unsafe(product: Product) -> dict[str, NDArray[np.bool_]]:
    """Per output channel and hazard, whether some input makes a CPU that has the hazard go wrong.

    Rules: 1. ``pairs`` as ``pairsafe.find_clipping``; depthwise kernels do not pair. 2. ``twins`` wants two
    weights of -128 in a channel, wherever: kernels differ in which they add first.
    """
    hazards = set(find_hazards(product.kind).values())
    none = np.zeros(product.channels, np.bool_)
    view = product.view
    pairs = "pairs" in hazards and not product.layer.depthwise
    return {
        "pairs": find_clipping(view) if pairs else none,
        "twins": (view == _LEAST).sum(axis=(1, 2)) > 1 if "twins" in hazards else none,
    }


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """Outputs looked at, those that clipped, and the energy of the exact sums and of what clipping took off them."""

    outputs: int = 0
    clipped: int = 0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def share(self) -> float:
        """Clipped outputs among all."""
        return self.clipped / self.outputs if self.outputs else 0.0

    @property
    def sqnr_db(self) -> float:
        """What clipping alone left of the sums."""
        return float("inf") if self.noise == 0 else float(10 * np.log10(max(self.signal, 1e-300) / self.noise))


def merge_tallies(first: Tally, second: Tally) -> Tally:
    """The tally over the images of both."""
    fields = Tally.__struct_fields__
    return Tally(**{name: getattr(first, name) + getattr(second, name) for name in fields})


def count_clipped(
    product: Product, node: onnx.NodeProto, values: NDArray[np.integer], seed: tuple[int, ...]
) -> Tally | None:
    """What a CPU without VNNI clips of a layer's outputs for one image, at 64 positions of its map.

    ``values`` is the layer's 8-bit input, (1, c, h, w) or a matrix. Products are added as MLAS does it, in
    neighbouring pairs of the flattened (kh, kw, cin), over u8 activations: s8 ones are moved up by 128. None for
    a convolution that is not two-dimensional.
    """
    window = _find_window(product, node, values.shape)
    if window is None:
        return None
    rows = values.size // values.shape[-1]
    height, width = (rows, 1) if window.rows else _measure_map(node, window, values.shape)
    positions = choose_positions(height * width, _POSITIONS, seed)
    zero = product.input_zero or 0
    centred = take_patches(values, zero, window, positions, width)
    stored = zero + (128 if product.kind.startswith("s8") else 0)
    patches = centred.astype(np.int32) + stored  # padding is the zero point
    weights = product.view.reshape(product.channels, -1).astype(np.int32)
    exact = weights - np.broadcast_to(product.zeros, product.channels)[:, np.newaxis]
    channels = product.channels // window.groups
    tally = Tally()
    for group in range(window.groups):
        own = slice(group * channels, (group + 1) * channels)
        lost = _sum_lost(patches[group], weights[own])
        sums = centred[group].astype(np.float64) @ exact[own].astype(np.float64).T
        tally = merge_tallies(
            tally,
            Tally(
                outputs=lost.size,
                clipped=int(np.count_nonzero(lost)),
                signal=float((sums**2).sum()),
                noise=float((lost.astype(np.float64) ** 2).sum()),
            ),
        )
    return tally


def _sum_lost(patches: NDArray[np.int32], weights: NDArray[np.int32]) -> NDArray[np.int64]:
    """What saturation takes off each sum: (positions, terms) and (channels, terms) give (positions, channels)."""
    if weights.shape[1] % 2:
        patches, weights = (np.pad(values, ((0, 0), (0, 1))) for values in (patches, weights))
    lost = np.zeros((len(patches), len(weights)), np.int64)
    step = max(1, _BLOCK // (patches.shape[0] * (patches.shape[1] // 2)))
    for start in range(0, len(weights), step):
        own = weights[start : start + step]
        pairs = patches[:, np.newaxis, 0::2] * own[:, 0::2]
        pairs += patches[:, np.newaxis, 1::2] * own[:, 1::2]
        pairs -= np.clip(pairs, *_INT16)
        lost[:, start : start + step] = pairs.sum(axis=-1)
    return lost


def _find_window(product: Product, node: onnx.NodeProto, image: tuple[int, ...]) -> Window | None:
    is_conv = product.layer.operator == "Conv"
    if len(image) < 2 or (is_conv and len(image) != 4):
        return None
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.op_type = product.layer.operator
    return read_window(plain, product.integers.shape, image)


def _measure_map(node: onnx.NodeProto, window: Window, image: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if attributes.get("auto_pad", b"NOTSET").decode().startswith("SAME"):
        sides = [-(-length // stride) for length, stride in zip(image[2:], window.strides, strict=True)]
        return sides[0], sides[1]
    after = tuple(attributes.get("pads", (0, 0, 0, 0)))[2:] if attributes.get("auto_pad", b"") != b"VALID" else (0, 0)
    sides = [
        (image[axis + 2] + window.pads[axis] + after[axis] - window.dilations[axis] * (window.kernel[axis] - 1) - 1)
        // window.strides[axis]
        + 1
        for axis in range(2)
    ]
    return sides[0], sides[1]
