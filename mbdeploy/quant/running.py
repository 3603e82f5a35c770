"""Run float and half-quantized models on calibration images, one image at a time."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy.errors import ModelError

Batch = NDArray[np.float32]


def open_session(model: onnx.ModelProto, threads: int) -> Any:
    """An inference session on the CPU provider.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            model.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        raise ModelError(
            expected="a float model that ONNX Runtime can run",
            found=str(error).splitlines()[0],
            todo="check it with `mbdeploy verify`",
        ) from error


def run_session(session: Any, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The values of ``outputs``.

    Raises:
        ModelError: the model does not run on these inputs.
    """
    try:
        values: list[NDArray[Any]] = session.run(list(outputs), dict(inputs))
    except Exception as error:
        raise ModelError(
            expected="a float model that runs on the calibration images",
            found=str(error).splitlines()[0],
            todo="check the preprocessing (--preprocess) and the image size",
        ) from error
    return values


def split_images(session: Any, batches: Iterable[Batch]) -> Iterator[Batch]:
    """One image at a time, so that the batch size given cannot matter; a static batch is filled by repeating it."""
    size = session.get_inputs()[0].shape[0]
    repeats = size if isinstance(size, int) and size > 1 else 1
    for batch in batches:
        for image in batch:
            yield np.repeat(image[np.newaxis], repeats, axis=0)


def digest_image(image: Batch) -> int:
    """A number that an image's content decides, so that what is drawn by it does not depend on the images' order."""
    return zlib.crc32(image[0].tobytes())
