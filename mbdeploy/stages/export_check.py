"""The check that an export passes before it gets its name: ONNX Runtime against torch, at several batch sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mbdeploy.card import Budgets
from mbdeploy.errors import ModelError
from mbdeploy.golden import Golden
from mbdeploy.isolate import Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: The sizes at which a dynamic batch must prove itself; none of them is the one that is traced (3).
_FIRST_BATCHES = (1, 2, 5)
_BATCH = 8


def compare_export(path: Path, golden: Golden, max_abs: float | None, *, where: str, on_progress: Progress) -> float:
    """Run the file on the golden images and return the largest absolute difference from torch.

    ``max_abs`` is the bound; None stands for the default budget, taken relative to the largest output
    where that is above 1, because nothing is known of the scale of a network without a card.

    Raises:
        ModelError: it does not run at every batch size, or the difference is beyond the bound.
    """
    differences = [0.0]
    session = open_session(path, where)
    for batch in split_batches(len(golden)):
        results = _run_session(session, golden.input[batch], where)
        for result, output in zip(results, golden.outputs, strict=True):
            reference = output[batch]
            if result.shape != reference.shape:
                raise _refuse_batch(where, len(batch), f"shape {result.shape} instead of {reference.shape}")
            differences.append(float(np.abs(result - reference).max()))
        on_progress("comparing", min(int(batch.max()) + 1, len(golden)), len(golden))
    found = float(np.max(differences))  # unlike max(), this keeps a NaN
    bound = max_abs
    if bound is None:
        bound = Budgets().export_max_abs * max(1.0, *(float(np.abs(output).max()) for output in golden.outputs))
    if not found <= bound:
        raise ModelError(
            where=where,
            expected=f"ONNX Runtime within {bound:.3g} of torch on {len(golden)} images (max abs)",
            found=f"max abs {found:.3g}",
            todo="try the other --exporter, or look in the forward method for branches that depend on the data",
        )
    return found


def split_batches(count: int) -> list[NDArray[np.intp]]:
    """Image indices in batches of 1, 2, 5, then 8 until each occurs; where there are too few, they repeat."""
    first = sum(_FIRST_BATCHES)
    total = max(count, first)
    edges = [*np.cumsum(_FIRST_BATCHES), *range(first + _BATCH, total, _BATCH)]
    return [batch for batch in np.split(np.arange(total) % count, edges) if len(batch)]


def open_session(path: Path, where: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1  # more of them mostly wait for each other at these sizes
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors have no common base
        raise ModelError(
            where=where,
            expected="an export that ONNX Runtime opens",
            found=_condense(error),
            todo="try the other --exporter, or another --opset",
        ) from error


def _run_session(session: Any, images: NDArray[np.float32], where: str) -> Any:
    try:
        return session.run(None, {session.get_inputs()[0].name: images})
    except Exception as error:
        raise _refuse_batch(where, len(images), _condense(error)) from error


def _refuse_batch(where: str, size: int, found: str) -> ModelError:
    return ModelError(
        where=where,
        expected="an export that runs at every batch size",
        found=f"at a batch of {size}: {found}",
        todo="write -1 for the batch in the forward method, or try --exporter dynamo",
    )


def _condense(error: Exception) -> str:
    # What follows is the place in ONNX Runtime's own sources.
    return str(error).splitlines()[0].split(" Status Message:")[0][:300]
