"""Run calibration images through the float model and observe the tensors that will carry scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mbdeploy.errors import DataError, ModelError
from mbdeploy.model_file import copy_model
from mbdeploy.quant.bias import MeanObserver
from mbdeploy.quant.observers import HistogramObserver, RangeObserver
from mbdeploy.quant.pairsafe import Floats
from mbdeploy.quant.ranges import Range, choose_range
from mbdeploy.quant.running import Batch, digest_image, open_session, run_session, split_images

OnImage = Callable[[str, int], None]
Extremes = NDArray[np.float32]


class Calibration(msgspec.Struct, frozen=True):
    """The range of every tensor that carries a scale, and the mean of each channel of every layer input."""

    ranges: dict[str, Range]
    means: dict[str, Floats]


class Observations:
    """What was seen of every tensor and layer input: exact, so that shards merge in any order.

    ``histograms`` is None where only extremes are wanted. ``extremes`` holds each image's, (tensors, 2) by its key (a
    digest of its content), where these are kept.
    """

    def __init__(self, tensors: Sequence[str], *, counting: bool, by_image: bool = False) -> None:
        self.ranges = RangeObserver(tensors)
        self.means = MeanObserver()
        self.histograms = HistogramObserver(tensors) if counting else None
        self.extremes: dict[int, Extremes] | None = {} if by_image else None

    @property
    def images(self) -> int:
        """How many were seen."""
        return self.means.images

    def merge(self, other: Observations) -> None:
        """Take in what was seen elsewhere of the same tensors, in the same way."""
        self.ranges.merge(other.ranges)
        self.means.merge(other.means)
        if self.histograms is not None and other.histograms is not None:
            self.histograms.merge(other.histograms)
        if self.extremes is not None and other.extremes is not None:
            self.extremes.update(other.extremes)

    def choose(self, method: str) -> Calibration:
        """Ranges by ``method``, and channel means.

        Raises:
            DataError: no image was seen. ModelError: an activation is not finite.
        """
        if self.images == 0:
            raise DataError(expected="calibration images", found="none", todo="give a folder with images in it")
        chosen = {tensor: (self.ranges.low[tensor], self.ranges.high[tensor]) for tensor in self.ranges.low}
        _refuse_non_finite(chosen)
        if method != "minmax":
            assert self.histograms is not None
            chosen = {
                tensor: choose_range(method, extremes, *self.histograms.read(tensor, extremes))
                for tensor, extremes in chosen.items()
            }
        return Calibration(chosen, self.means.read())


def observe(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    layer_inputs: Sequence[str],
    batches: Iterable[Batch],
    *,
    into: Callable[[int], Observations],
    threads: int,
    on_image: OnImage,
) -> None:
    """Run all images through the model, and add each to the observations that ``into`` names for its key.

    ``batches`` are images (n, c, h, w) in any number at a time; they are read once. Memory holds one image's
    activations at most. The key is a digest of an image's content.

    Raises:
        ModelError: the model does not run.
    """
    counting = into(0).histograms is not None
    watched, outputs = _add_outputs(model, tensors, layer_inputs, whole=counting)
    session = open_session(watched, threads)
    name = session.get_inputs()[0].name
    for done, image in enumerate(split_images(session, batches), start=1):
        seen = into(key := digest_image(image))
        values = run_session(session, outputs, {name: image})
        extremes = _take_extremes(values, len(tensors), whole=counting)
        for tensor, value, (low, high) in zip(tensors, values, extremes.tolist(), strict=False):
            seen.ranges.update(tensor, low, high)
            if seen.histograms is not None and np.isfinite(low) and np.isfinite(high):
                seen.histograms.update(tensor, value, max(-low, high))
        if seen.extremes is not None:
            seen.extremes[key] = extremes
        means = values[len(values) - len(layer_inputs) :]
        seen.means.update({name: mean[0] for name, mean in zip(layer_inputs, means, strict=True)})
        on_image("calibrating", done)


def _take_extremes(values: Sequence[Batch], count: int, *, whole: bool) -> Extremes:
    """Lowest and highest value of each of ``count`` tensors: of the tensors themselves, or reduced already."""
    if whole:
        return np.array([(value.min(), value.max()) for value in values[:count]], np.float32).reshape(count, 2)
    return np.array(values[: 2 * count], np.float32).reshape(count, 2)


def _add_outputs(
    model: onnx.ModelProto, tensors: Sequence[str], layer_inputs: Sequence[str], *, whole: bool
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy that puts out what is observed, and the names of that.

    First the tensors themselves (``whole``), or the minimum and the maximum of each; then the mean of each
    channel of each layer input.
    """
    observed = copy_model(model)
    del observed.graph.output[:]
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    operators = ("Identity",) if whole else ("ReduceMin", "ReduceMax")
    wanted = [(operator, tensor) for tensor in tensors for operator in operators]
    wanted += [("GlobalAveragePool" if ranks[name] > 2 else "Identity", name) for name in layer_inputs]
    outputs = []
    for position, (operator, tensor) in enumerate(wanted):
        name = f"mbdeploy_{operator}_{position}"
        options = {"keepdims": 0} if operator.startswith("Reduce") else {}
        observed.graph.node.append(helper.make_node(operator, [tensor], [name], name=name, **options))
        observed.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        outputs.append(name)
    return observed, outputs


def _refuse_non_finite(observed: dict[str, Range]) -> None:
    bad = [name for name, (low, high) in observed.items() if not (np.isfinite(low) and np.isfinite(high))]
    if bad:
        raise ModelError(
            where=bad[0],
            expected="finite activations on the calibration images",
            found=f"NaN or infinity in {len(bad)} of {len(observed)} tensors",
            todo="check the weights and the preprocessing",
        )
