"""What outputs are compared with: golden outputs, or an FP32 ONNX file run over data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.data import load_arrays, open_dataset
from mbdeploy.errors import DataError, UsageError
from mbdeploy.golden import read_golden
from mbdeploy.stages.subject import Subject, check_inputs, choose_preprocess, plan_session, read_subject
from mbdeploy.targets import Job, open_target, parse_provider


class Reference(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """The images (n, c, h, w), one array (n, …) an output, and where they come from."""

    name: str
    inputs: NDArray[np.float32]
    outputs: tuple[NDArray[Any], ...]


def load_reference(
    subjects: Sequence[Subject],
    *,
    golden: Path | None,
    reference: Path | None,
    data: str | None,
    preprocess: str | None,
    num_samples: int,
) -> Reference:
    """The reference for these subjects, at most ``num_samples`` images of it.

    Raises:
        UsageError: no reference, or two of them.
        DataError: one whose images or outputs do not fit the subjects.
    """
    if golden is not None and reference is not None:
        raise UsageError(expected="one reference", found="--golden and --reference", todo="give only one of them")
    if reference is not None:
        loaded = _run_reference(subjects, reference, data, preprocess, num_samples)
    else:
        loaded = _read_golden(find_golden(subjects[0].path, golden), num_samples)
    check_inputs(subjects, loaded.inputs.shape, loaded.name)
    for subject in subjects:
        if len(subject.signature.outputs) != len(loaded.outputs):
            raise DataError(
                where=loaded.name,
                expected=f"an output for each of the {len(subject.signature.outputs)} of {subject.ref.name}",
                found=f"{len(loaded.outputs)}",
                todo="compare models that have the same outputs in the same order",
            )
    return loaded


def find_golden(model: Path, golden: Path | None) -> Path | None:
    """``golden``, or golden.npz beside the model, or None if there is none."""
    beside = model.parent / "golden.npz"
    return golden if golden is not None else beside if beside.is_file() else None


def _read_golden(golden: Path | None, num_samples: int) -> Reference:
    if golden is None:
        raise UsageError(
            expected="outputs to compare with",
            found="no golden.npz beside the model, and no --reference",
            todo="give --golden FILE.npz, or --reference FP32.onnx with --data",
        )
    kept = read_golden(golden)
    outputs = tuple(output[:num_samples] for output in kept.outputs)
    return Reference(name=str(golden), inputs=kept.input[:num_samples], outputs=outputs)


def _run_reference(
    subjects: Sequence[Subject], reference: Path, data: str | None, preprocess: str | None, num_samples: int
) -> Reference:
    if data is None:
        raise UsageError(where=reference, expected="images for the reference", found="none", todo="give --data")
    source = read_subject(reference)
    dataset = open_dataset(data, split="check")
    how = choose_preprocess(dataset, [source, *subjects], preprocess)
    inputs = load_arrays(dataset, how, limit=num_samples)
    check_inputs([source], inputs.shape, data)
    here = parse_provider("cpu")
    answer = open_target(here).run(Job(kind="infer", sessions=(plan_session(source, here),), inputs=inputs))
    return Reference(name=f"{reference} over {data}", inputs=inputs, outputs=answer.sessions[0].outputs)
