"""The export stage: a network in, fp32.onnx and golden.npz out, compared before they get their names."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.errors import OutputError, UnavailableError
from mbdeploy.isolate import Progress, demand_value, ignore_progress, run_step
from mbdeploy.records import ExportRecord
from mbdeploy.stages.export_plan import Exporter, Shape, describe_job, settle_job
from mbdeploy.watch import Limits

GOLDEN_NAME = "golden.npz"
_EXPORT_STEP = "mbdeploy.stages.export_job:export_network"
_ADOPT_STEP = "mbdeploy.stages.export_onnx:adopt_network"  # needs no torch


def export(
    source: str | Path,
    *,
    output: Path,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    trust: bool = False,
    weights: str | None = None,
    preprocess: str | None = None,
    input_shape: Shape | None = None,
    golden_data: str | None = None,
    num_golden_samples: int = 32,
    limits: Limits | None = None,
    on_progress: Progress = ignore_progress,
) -> ExportRecord:
    """Export a network to ``output`` with a dynamic batch, and write golden.npz and the sidecars beside it.

    ``source`` is a card (name or path), ``"pkg.mod:factory"``, or a FILE.pt2 of torch.export.save. The
    last two can run code of their own, so they need ``trust``; and as no card describes them, they need
    ``preprocess``, ``golden_data`` and (unless a TOML file gives the size) ``input_shape`` (C, H, W).
    ``weights`` is a file to load instead of the card's.
    A card whose network is an ONNX file is taken in as it is. Rules: 1. ONNX Runtime must agree with torch on
    every golden image, in batches of 1, 2, 5 and 8, within the card's ``export_max_abs``; without a
    card, within 1e-4, or 1e-4 of the largest output if that is above 1. 2. Nothing has its final name
    until then. 3. The same network, images and options give the same bytes, with no path or time in them.

    Raises:
        UsageError: an option that is missing or does not fit. CardError, DataError: see ``load_card`` and
        ``open_dataset``. ModelError: a network that cannot be exported, or not faithfully. OutputError:
        nowhere to write. UnavailableError: no torch. StepError: torch crashed, hung or ran out of memory.
    """
    job = settle_job(
        source,
        exporter=exporter,
        opset=opset,
        trust=trust,
        weights=weights,
        preprocess=preprocess,
        input_shape=input_shape,
        golden_data=golden_data,
        num_golden_samples=num_golden_samples,
    )
    if not job.adopted:
        _check_torch()
    if output.name == GOLDEN_NAME:
        todo = "choose another --output"
        raise OutputError(where=output, expected="a model's name", found="that of the golden file", todo=todo)
    golden = output.with_name(GOLDEN_NAME)
    provenance = describe_job(job)
    with artifact.writing(golden) as golden_file, artifact.writing(output) as onnx_file:  # 2.
        request = {
            "job": msgspec.to_builtins(job),
            "provenance": msgspec.to_builtins(provenance),
            "model": str(onnx_file),
            "golden": str(golden_file),
        }
        outcome = run_step(
            _ADOPT_STEP if job.adopted else _EXPORT_STEP, request, limits=limits, on_progress=on_progress
        )
        made = demand_value(
            outcome,
            where=job.where,
            expected="an export that runs to its end",
            todo="check that the network runs in torch, and that memory and time suffice",
        )
    vouched = artifact.write_sidecar(golden, provenance, {"images": made["images"]})
    record = msgspec.convert({**made, "golden_sha256": vouched.sha256}, ExportRecord)
    artifact.write_sidecar(output, provenance, record)
    return record


def plan(source: str | Path, **options: Any) -> Provenance:
    """What ``export`` would do with these inputs (its options, less the output): the basis of the freshness key.

    A factory's code is known by its own file: a change in what that imports goes unseen.
    """
    return describe_job(settle_job(source, **options))


def _check_torch() -> None:
    if importlib.util.find_spec("torch") is None:
        raise UnavailableError(
            expected="PyTorch, which export needs",
            found="no package torch",
            todo="run `pip install mbdeploy[export]`",
        )
