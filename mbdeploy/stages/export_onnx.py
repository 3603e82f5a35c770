"""The export stage's child for a card whose network is an ONNX file: take it in, with golden outputs of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from mbdeploy import model_file
from mbdeploy.artifact import Provenance
from mbdeploy.card import ModelCard
from mbdeploy.errors import CardError, ModelError
from mbdeploy.golden import Golden, find_degenerate, write_golden
from mbdeploy.isolate import Progress
from mbdeploy.preflight import check_model, copying
from mbdeploy.rewrites.image import fix_image
from mbdeploy.stages.export_check import compare_export, open_session
from mbdeploy.stages.export_job import TASKS, load_images, write_identity
from mbdeploy.stages.export_plan import Job

if TYPE_CHECKING:
    import onnx


def adopt_network(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """As ``export_job.export_network``, but the network is a file already.

    Rules: 1. the file is the one that the card knows by its sha256. 2. Golden outputs are the file's own, image by
    image, on this CPU. 3. A batch that is fixed to 1 becomes dynamic, and has to prove itself at several sizes; an
    image whose size the file leaves open gets that of the card.
    """
    job = msgspec.convert(request["job"], Job)
    assert job.card is not None and job.card.weights.file is not None
    path = Path(job.card.path).parent / job.card.weights.file
    _check_digest(path, None, job.card)  # 1.
    companions = check_model(path).companions
    with copying(path, companions) as source:
        _check_digest(source, companions, job.card)  # these are the bytes that are run
        return _adopt(source, path, job, request, on_progress)


def _check_digest(path: Path, companions: Sequence[str] | None, card: ModelCard) -> None:
    found = model_file.digest_model(path, companions) if path.is_file() else ""
    if found != card.weights.sha256:
        raise CardError(
            where=card.path,
            expected=f"the file {card.weights.file}, with the sha256 that the card says",
            found=f"another file, with {found}" if found else "no such file",
            todo="correct weights.file, or weights.sha256",
        )


def _adopt(source: Path, path: Path, job: Job, request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """What follows once ``source``, which is ``path`` itself or a private copy of it, is known to be the file."""
    assert job.card is not None
    images, names = load_images(job, on_progress)
    model = model_file.load_whole(source)
    signature = model_file.read_signature(model, path)
    if signature.batch not in (None, 1):
        raise ModelError(
            where=path,
            expected="a batch of 1, or a dynamic one",
            found=f"a batch of {signature.batch}",
            todo="export it for one image",
        )
    session = open_session(source, job.where)
    parts = []
    for index in range(len(images)):  # 2.
        parts.append(session.run(None, {signature.input: images[index : index + 1]}))
        on_progress("running the file", index + 1, len(images))
    outputs = tuple(np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True))
    for name, output in zip(signature.outputs, outputs, strict=True):
        if reason := find_degenerate(output, images):
            raise ModelError(
                where=path,
                expected="outputs that are finite and depend on the image",
                found=f"{name}: {reason}",
                todo="check the file and the preprocessing",
            )
    if signature.image_shape is None:  # 3.
        fix_image(model, signature.input, job.shape, path)
    _free_batch(model, signature.input)
    golden = Golden(input=images, outputs=outputs, output_names=signature.outputs, names=names)
    task = job.described.task if job.described else TASKS.get(outputs[0].ndim, "")
    write_identity(model, job, msgspec.convert(request["provenance"], Provenance), task)
    model_file.save_model(model, Path(request["model"]))
    bound = job.card.budgets.export_max_abs
    max_abs = compare_export(Path(request["model"]), golden, bound, where=job.where, on_progress=on_progress)
    write_golden(Path(request["golden"]), golden)
    return {
        "exporter": "none",
        "opset": model_file.read_opset(model),
        "images": len(golden),
        "max_abs": max_abs,
        "torch_export_s": 0.0,
        "trained": job.card.trained,
    }


def _free_batch(model: onnx.ModelProto, name: str) -> None:
    """Axis 0 of the input and of every output is any number; sizes that were inferred for another are forgotten."""
    for value in (*model.graph.input, *model.graph.output):
        axes = value.type.tensor_type.shape.dim
        if (value.name == name or value in model.graph.output) and axes:
            axes[0].dim_param = "batch"
    del model.graph.value_info[:]
