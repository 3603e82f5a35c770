"""What recovery looks at: the float model's outputs and the quantized inputs of a layer, at the same sampled places."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.model_file import copy_model
from mbdeploy.quant.frontier import Frontier
from mbdeploy.quant.gram import Gram, Moments, choose_unit, fix_targets, hold_bias
from mbdeploy.quant.layers import Layer, view_reduction
from mbdeploy.quant.pairsafe import Floats
from mbdeploy.quant.patches import choose_positions, count_positions, read_window, take_outputs, take_patches
from mbdeploy.quant.ranges import ActivationScale
from mbdeploy.quant.running import Batch, digest_image, open_session, run_session, split_images

#: Samples that a layer is fitted to, about: so many positions of each image, within bounds.
_SAMPLES = 8192
_FEWEST, _MOST = 16, 64
#: Elements of a layer's covariance: a 3x3 kernel over 512 channels. Beyond, memory and time are out of proportion.
_MOST_PRODUCTS = 4608**2
_AT_ONCE = 4  # images whose samples are added in one product


class Observed(msgspec.Struct, frozen=True):
    """Moments of a layer over all images and over either half of them (one, if the other is empty)."""

    groups: int
    whole: Moments
    halves: tuple[Moments, ...]

    def hold_bias(self, bias: Floats) -> Observed:
        """The same about a bias that cannot move."""
        return Observed(self.groups, hold_bias(self.whole, bias), tuple(hold_bias(half, bias) for half in self.halves))


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """Where a layer's output is looked at: its shape, and the file of the float model's values at those positions.

    ``number`` is the layer's; with an image's key (a digest of its content) it decides which positions are taken.
    """

    layer: Layer
    number: int
    limit: int
    file: Path
    shape: tuple[int, ...] = ()

    def choose(self, shape: tuple[int, ...], key: int) -> NDArray[np.int64]:
        return choose_positions(count_positions(shape, self.layer), self.limit, (self.number, key))


def place_samples(layers: list[Layer], images: int, folder: Path) -> list[Sampled]:
    """Where each layer's output will be looked at, so that all images together give about ``_SAMPLES`` samples."""
    limit = min(max(_SAMPLES // images, _FEWEST), _MOST)
    return [
        Sampled(layer=layer, number=number, limit=limit, file=folder / f"wanted_{number}.f32")
        for number, layer in enumerate(layers)
    ]


def sample_outputs(
    model: onnx.ModelProto, places: list[Sampled], frontier: Frontier, batches: Iterable[Batch], threads: int
) -> tuple[list[Sampled], list[int]]:
    """Run the float model once: its layers' outputs at sampled positions go to files, the images to the frontier.

    Answers with the shapes filled in, and the key of each image.
    """
    watched = copy_model(model)
    del watched.graph.output[:]
    watched.graph.output.extend(onnx.ValueInfoProto(name=place.layer.output) for place in places)
    session = open_session(watched, threads)
    source = session.get_inputs()[0].name
    shapes: list[tuple[int, ...]] = []
    keys: list[int] = []
    for image in split_images(session, batches):
        frontier.add_image(image)
        keys.append(digest_image(image))
        values = run_session(session, [place.layer.output for place in places], {source: image})
        shapes = [value.shape for value in values]
        for place, value in zip(places, values, strict=True):
            with place.file.open("ab") as stream:
                take_outputs(value, place.layer, place.choose(value.shape, keys[-1])).tofile(stream)
    return [msgspec.structs.replace(place, shape=shape) for place, shape in zip(places, shapes, strict=True)], keys


def observe_layer(
    frontier: Frontier,
    node: onnx.NodeProto,
    place: Sampled,
    weight: NDArray[np.float32],
    step: ActivationScale,
    keys: list[int],
) -> Observed | None:
    """The moments at the sampled positions, or None for a kind of layer unknown, or too wide.

    An image's half depends on its key, so that the order of the images cannot matter.
    """
    view = view_reduction(weight, place.layer)
    window = read_window(node, weight.shape, frontier.read_input(place.layer.node, 0).shape)
    if window is None or (place.layer.bias is None and any(node.input[2:])):  # a computed bias is in the target
        return None
    sizes = (window.groups, view[0].size, len(view) // window.groups)
    if sizes[0] * sizes[1] ** 2 > _MOST_PRODUCTS:
        return None
    targets = np.memmap(place.file, np.float32, mode="r").reshape(len(keys), -1, len(view))
    unit = choose_unit(targets)
    halves = (Gram(*sizes), Gram(*sizes))
    for number, half in enumerate(halves):
        members = [image for image, key in enumerate(keys) if key & 1 == number]
        for start in range(0, len(members), _AT_ONCE):
            chunk = members[start : start + _AT_ONCE]
            patches = [
                take_patches(
                    frontier.read_input(place.layer.node, image),
                    step.zero_point,
                    window,
                    place.choose(place.shape, keys[image]),
                    place.shape[-1],
                )
                for image in chunk
            ]
            half.update(np.concatenate(patches, axis=1), fix_targets(np.concatenate(targets[chunk]), unit))
    whole = halves[0].merge(halves[1]).read(step.scale, unit)
    return Observed(window.groups, whole, tuple(half.read(step.scale, unit) for half in halves if half.count))
