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
    read_images: Callable[[], Iterable[Batch]],
    *,
    threads: int,
    on_image: OnImage,
) -> Calibration:
    """The ranges of ``tensors`` by ``method`` and the channel means of ``layer_inputs``, over all images.

    ``read_images`` starts a new pass and yields batches (n, c, h, w) of any size. Memory holds one
    image's activations at most; minmax reads the images once, the histogram methods twice.

    Raises:
        DataError: no image. ModelError: an activation is not finite, or the model does not run.
    """
    observer, averages = RangeObserver(tensors), MeanObserver()
    session, outputs = _open_observed(_add_statistics(model, tensors, layer_inputs), threads)
    for image in _single_images(session, read_images()):
        values = _run(session, outputs, image)
        for position, tensor in enumerate(tensors):
            observer.update(tensor, float(values[2 * position]), float(values[2 * position + 1]))
        averages.update({name: mean[0] for name, mean in zip(layer_inputs, values[2 * len(tensors) :], strict=True)})
        on_image("observing ranges", averages.images)
    if averages.images == 0:
        raise DataError(expected="calibration images", found="none", todo="give a folder with images in it")
    observed = {tensor: (observer.low[tensor], observer.high[tensor]) for tensor in tensors}
    _refuse_non_finite(observed)
    if method == "minmax":
        return Calibration(observed, averages.read())
    del session
    histograms = HistogramObserver(observed)
    session, outputs = _open_observed(_add_outputs(model, tensors), threads)
    given = session.get_inputs()[0].name
    for count, image in enumerate(_single_images(session, read_images()), start=1):
        for tensor, activation in zip(outputs, _run(session, outputs, image), strict=True):
            histograms.update(tensor, activation)
        if given in histograms.counts:
            histograms.update(given, image)
        on_image("counting values", count)
    chosen = {name: choose_range(method, observed[name], histograms.counts[name]) for name in tensors}
    return Calibration(chosen, averages.read())


def _single_images(session: Any, batches: Iterable[Batch]) -> Iterator[Batch]:
    """One image at a time, so that the batch size given cannot matter; a static batch is filled by repeating it."""
    size = session.get_inputs()[0].shape[0]
    repeats = size if isinstance(size, int) and size > 1 else 1
    for batch in batches:
        for image in batch:
            yield np.repeat(image[np.newaxis], repeats, axis=0)


def _add_statistics(
    model: onnx.ModelProto, tensors: Sequence[str], layer_inputs: Sequence[str]
) -> tuple[onnx.ModelProto, list[str]]:
    """A copy that puts out the minimum and maximum of each tensor, then the channel means of each layer input."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in (*model.graph.value_info, *model.graph.input, *model.graph.output)
    }
    wanted = [(operator, tensor) for tensor in tensors for operator in ("ReduceMin", "ReduceMax")]
    wanted += [("GlobalAveragePool" if ranks[name] > 2 else "Identity", name) for name in layer_inputs]
    outputs = []
    for position, (operator, tensor) in enumerate(wanted):
        name = f"mbdeploy_{operator}_{position}"
        options = {"keepdims": 0} if operator.startswith("Reduce") else {}
        observed.graph.node.append(helper.make_node(operator, [tensor], [name], name=name, **options))
        observed.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        outputs.append(name)
    return observed, outputs


def _add_outputs(model: onnx.ModelProto, tensors: Sequence[str]) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of the model that puts out the tensors themselves, behind an Identity where one is an input."""
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    inputs = {value.name for value in model.graph.input}
    for tensor in tensors:
        if tensor not in inputs:
            observed.graph.output.append(helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return observed, [tensor for tensor in tensors if tensor not in inputs]


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
