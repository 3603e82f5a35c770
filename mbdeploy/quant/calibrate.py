"""Run calibration images through the float model and observe the tensors that will carry scales."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from mbdeploy.errors import DataError, ModelError
from mbdeploy.quant.bias import MeanObserver
from mbdeploy.quant.observers import HistogramObserver, RangeObserver
from mbdeploy.quant.pairsafe import Floats
from mbdeploy.quant.ranges import Range, choose_range

Batch = NDArray[np.float32]
OnImage = Callable[[str, int], None]


class Calibration(msgspec.Struct, frozen=True):
    """The range of every tensor that carries a scale, and the mean of each channel of every layer input."""

    ranges: dict[str, Range]
    means: dict[str, Floats]


def calibrate(
    model: onnx.ModelProto,
    tensors: Sequence[str],
    layer_inputs: Sequence[str],
    method: str,
    batches: Iterable[Batch],
    *,
    threads: int,
    on_image: OnImage,
) -> Calibration:
    """The ranges of ``tensors`` by ``method`` and the channel means of ``layer_inputs``, over all images.

    ``batches`` are images (n, c, h, w) in any number at a time; they are read once. Memory holds one image's
    activations at most.

    Raises:
        DataError: no image. ModelError: an activation is not finite, or the model does not run.
    """
    counting = method != "minmax"
    ranges, averages, histograms = RangeObserver(tensors), MeanObserver(), HistogramObserver(tensors)
    session, outputs = _open_observed(_add_outputs(model, tensors, layer_inputs, whole=counting), threads)
    for image in _single_images(session, batches):
        values = _run(session, outputs, image)
        for position, tensor in enumerate(tensors):
            if counting:
                low, high = float(values[position].min()), float(values[position].max())
            else:
                low, high = float(values[2 * position]), float(values[2 * position + 1])
            ranges.update(tensor, low, high)
            if counting and np.isfinite(low) and np.isfinite(high):
                histograms.update(tensor, values[position], max(-low, high))
        means = values[len(values) - len(layer_inputs) :]
        averages.update({name: mean[0] for name, mean in zip(layer_inputs, means, strict=True)})
        on_image("calibrating", averages.images)
    if averages.images == 0:
        raise DataError(expected="calibration images", found="none", todo="give a folder with images in it")
    observed = {tensor: (ranges.low[tensor], ranges.high[tensor]) for tensor in tensors}
    _refuse_non_finite(observed)
    if counting:
        observed = {
            name: choose_range(method, extremes, *histograms.read(name, extremes))
            for name, extremes in observed.items()
        }
    return Calibration(observed, averages.read())


def _single_images(session: Any, batches: Iterable[Batch]) -> Iterator[Batch]:
    """One image at a time, so that the batch size given cannot matter; a static batch is filled by repeating it."""
    size = session.get_inputs()[0].shape[0]
    repeats = size if isinstance(size, int) and size > 1 else 1
    for batch in batches:
        for image in batch:
            yield np.repeat(image[np.newaxis], repeats, axis=0)


def _add_outputs(
    model: onnx.ModelProto, tensors: Sequence[str], layer_inputs: Sequence[str], *, whole: bool
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy that puts out what is observed, and the names of that.

    First the tensors themselves (``whole``), or the minimum and the maximum of each; then the mean of each
    channel of each layer input.
    """
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
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


def _open_observed(observed: tuple[onnx.ModelProto, list[str]], threads: int) -> tuple[Any, list[str]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    model, outputs = observed
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(
            expected="a float model that ONNX Runtime can run",
            found=str(error).splitlines()[0],
            todo="check it with `mbdeploy verify`",
        ) from error
    return session, outputs


def _run(session: Any, outputs: list[str], image: Batch) -> list[NDArray[np.float32]]:
    name = session.get_inputs()[0].name
    try:
        values: list[NDArray[np.float32]] = session.run(outputs, {name: image})
    except Exception as error:
        raise ModelError(
            expected="a float model that runs on the calibration images",
            found=str(error).splitlines()[0],
            todo="check the preprocessing (--preprocess) and the image size",
        ) from error
    return values


def _refuse_non_finite(observed: dict[str, Range]) -> None:
    bad = [name for name, (low, high) in observed.items() if not (np.isfinite(low) and np.isfinite(high))]
    if bad:
        raise ModelError(
            where=bad[0],
            expected="finite activations on the calibration images",
            found=f"NaN or infinity in {len(bad)} of {len(observed)} tensors",
            todo="check the weights and the preprocessing",
        )
