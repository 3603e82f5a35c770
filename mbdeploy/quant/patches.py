"""What a layer multiplies with its weights: patches of its input at sampled output positions."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.quant.layers import Layer


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """How a layer's kernel moves over its input: (height, width) pairs; ``pads`` are (top, left) only.

    The window of a matrix product is a row (``rows``), however many axes its input has.
    """

    rows: bool = False
    groups: int = 1
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)


def read_window(node: onnx.NodeProto, kernel: tuple[int, ...], image: tuple[int, ...]) -> Window | None:
    """The window of a two-dimensional Conv, or of a matrix product; None if it is of another kind.

    ``kernel`` is the weight's shape and ``image`` the input's.
    """
    if node.op_type != "Conv":
        return Window(rows=True)
    if len(kernel) != 4:
        return None
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    size = (kernel[2], kernel[3])
    strides = tuple(attributes.get("strides", (1, 1)))
    dilations = tuple(attributes.get("dilations", (1, 1)))
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))[:2]
    automatic = attributes.get("auto_pad", b"NOTSET").decode()
    if automatic == "VALID":
        pads = (0, 0)
    elif automatic.startswith("SAME"):
        wide = [
            max((-(-length // stride) - 1) * stride + (side - 1) * rate + 1 - length, 0)
            for length, stride, side, rate in zip(image[2:], strides, size, dilations, strict=True)
        ]
        pads = tuple((total + (automatic == "SAME_LOWER")) // 2 for total in wide)
    return Window(groups=attributes.get("group", 1), kernel=size, strides=strides, dilations=dilations, pads=pads)


def choose_positions(count: int, wanted: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """At most ``wanted`` of ``count`` positions, in rising order: all of them, or a draw that ``seed`` decides."""
    if count <= wanted:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, wanted, replace=False))


def take_outputs(values: NDArray[np.float32], layer: Layer, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """A layer's output for one image at ``positions`` (of the flattened map): shape (positions, channels)."""
    flat = (
        values[0].reshape(values.shape[1], -1).T if layer.operator == "Conv" else values.reshape(-1, values.shape[-1])
    )
    return np.ascontiguousarray(flat[positions])


def count_positions(shape: tuple[int, ...], layer: Layer) -> int:
    """How many output positions one image has, from the shape of the layer's output."""
    return int(np.prod(shape[2:] if layer.operator == "Conv" else shape[:-1], dtype=np.int64))


def take_patches(
    values: NDArray[np.integer], zero_point: int, window: Window, positions: NDArray[np.int64], width: int
) -> NDArray[np.float32]:
    """The 8-bit inputs that meet the weights at ``positions``, zero point taken off: (groups, positions, terms).

    ``values`` is one image's input, (1, c, h, w) or rows; ``width`` is that of the output map. Terms are in
    reduction order (kh, kw, input channel of the group), as ``layers.view_reduction`` has them; padding is 0.
    """
    if window.rows:
        rows = values.reshape(-1, values.shape[-1])[positions]
        return (rows.astype(np.float32) - zero_point)[np.newaxis]
    channels, height, length = values.shape[1:]
    steps = [
        np.arange(side) * rate - pad
        for side, rate, pad in zip(window.kernel, window.dilations, window.pads, strict=True)
    ]
    y = positions // width * window.strides[0] + steps[0].repeat(window.kernel[1])[:, np.newaxis]
    x = positions % width * window.strides[1] + np.tile(steps[1], window.kernel[0])[:, np.newaxis]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < length)
    places = np.where(inside, y * length + x, 0)
    taken = values[0].reshape(channels, -1).take(places.reshape(-1), axis=1)
    grouped = taken.reshape(window.groups, -1, *places.shape).transpose(0, 3, 2, 1).astype(np.float32, order="C")
    grouped -= zero_point
    if not inside.all():
        grouped *= inside.T[:, :, np.newaxis]
    patches: NDArray[np.float32] = grouped.reshape(window.groups, len(positions), -1)
    return patches
