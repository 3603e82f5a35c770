"""The audited file and its repair as they run: what saturation changes, and how far they are from the float model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy import targets
from mbdeploy.auditing.report import Ran
from mbdeploy.data import load_arrays, open_dataset
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.isolate import Progress
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import Host
from mbdeploy.stages.subject import (
    Subject,
    check_inputs,
    choose_preprocess,
    draw_noise,
    entitle,
    plan_session,
    read_subject,
)
from mbdeploy.targets import Job, Provider, Target, open_target, parse_provider

File = Literal["input", "repaired"]
#: ``executed`` and ``exact`` as in ``verify``. ``unsaturated`` is ``executed`` with ONNX Runtime multiplying u8 by
#: u8 wherever u8 by s8 would saturate, bit for bit the same otherwise; on a CPU that cannot saturate it is the same.
Way = Literal["executed", "exact", "unsaturated"]
_PRECISE = {"session.x64quantprecision": "1"}
#: Images of noise, where none were given.
_NOISE_IMAGES = 4


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """What ran: on which inputs, how many, one row a file, provider and output, and the hosts by provider."""

    inputs: str
    images: int
    rows: tuple[Ran, ...]
    hosts: dict[str, Host]


class Plan(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What is to run: the files, the images, and the float model's outputs for them if there is one.

    ``ways`` lacks ``exact`` where nobody asks for it, or where a file of integer operators has none.
    """

    subjects: Mapping[File, Subject]
    inputs: NDArray[np.float32]
    source: str
    expected: tuple[NDArray[Any], ...] | None
    ways: tuple[Way, ...]
    saturates: bool
    threads: int
    on_progress: Progress


def run_files(
    files: Mapping[File, Path],
    *,
    integer: bool,
    saturates: bool,
    against: Path | None,
    data: str | None,
    preprocess: str | None,
    num_samples: int,
    providers: Sequence[str],
    threads: int,
    seed: int,
    on_progress: Progress,
) -> Runs:
    """Run every file on every provider in every way; an emulated one only as executed, the rest here.

    Rules: 1. a file of integer operators (``integer``) is one without graph optimisation too: it is compared
    with the float model as executed and unsaturated. 2. One none of whose products saturates anywhere
    (``saturates`` is False) is compared with itself. 3. A file that takes no image, and for which none are given,
    does not run: ``inputs`` says so.

    Raises:
        UnavailableError, StepError, DataError, ModelError: as ``verify``.
    """
    try:
        subjects = {file: read_subject(path, "int8") for file, path in files.items()}
        reference = None if against is None or data is None else read_subject(against, "fp32")
    except ModelError as error:
        if data is not None:
            raise
        return Runs(inputs=f"none: {error.found} where {error.expected} was expected", images=0, rows=(), hosts={})
    inputs, source = _make_inputs(subjects["input"], reference, data, preprocess, num_samples, seed)
    expected = None if reference is None else _run_reference(reference, inputs, subjects["input"])
    ways: tuple[Way, ...] = ("executed", "unsaturated")
    plan = Plan(
        subjects=subjects,
        inputs=inputs,
        source=source,
        expected=expected,
        ways=ways if expected is None or integer else (*ways, "exact"),
        saturates=saturates,
        threads=threads,
        on_progress=on_progress,
    )
    here = parse_provider("cpu")
    rows: list[Ran] = []
    hosts: dict[str, Host] = {}
    local: dict[tuple[File, Way], targets.Ran] = {}
    for provider in map(parse_provider, dict.fromkeys(providers)):
        if provider.runtime != here.runtime:
            raise UsageError(
                where=provider.word,
                expected="a provider of ONNX Runtime, which alone can run a file without saturation",
                found=provider.runtime,
                todo="compare executed with exact there by `mbdeploy verify`",
            )
        target = open_target(provider)
        if target.emulated and not local:
            local, _ = _run(plan, plan.ways[1:], here, open_target(here))
        found, hosts[provider.word] = _run(plan, plan.ways[:1] if target.emulated else plan.ways, provider, target)
        rows += _compare(plan, provider.word, {**local, **found} if target.emulated else found)
    return Runs(inputs=source, images=len(inputs), rows=tuple(rows), hosts=hosts)


def _compare(plan: Plan, provider: str, found: Mapping[tuple[File, Way], targets.Ran]) -> Iterator[Ran]:
    for file, subject in plan.subjects.items():
        ran, free = found[file, "executed"], found[file, "unsaturated"]
        exact = found.get((file, "exact"), free)
        for index, name in enumerate(ran.output_names):
            scale = subject.output_scales[index]
            expected = None if plan.expected is None else plan.expected[index]
            yield Ran(
                file=file,
                provider=provider,
                output=name,
                saturation=compare_outputs(free.outputs[index], ran.outputs[index], scale),
                executed=None if expected is None else compare_outputs(expected, ran.outputs[index], scale),
                exact=None if expected is None else compare_outputs(expected, exact.outputs[index], scale),
            )


def _run(
    plan: Plan, ways: Sequence[Way], provider: Provider, target: Target
) -> tuple[dict[tuple[File, Way], targets.Ran], Host]:
    keys = [(file, way) for way in ways for file in plan.subjects]
    sessions = tuple(
        plan_session(
            plan.subjects[file],
            provider,
            mode="exact" if way == "exact" else "executed",
            threads=plan.threads,
            session_config=_PRECISE if way == "unsaturated" and plan.saturates else None,
        )
        for file, way in keys
    )
    job = Job(kind="infer", sessions=sessions, inputs=plan.inputs)
    answer = target.run(job, entitle(plan.on_progress, f"audit on {provider.word}"))
    return dict(zip(keys, answer.sessions, strict=True)), answer.host


def _run_reference(reference: Subject, inputs: NDArray[np.float32], subject: Subject) -> tuple[NDArray[Any], ...]:
    here = parse_provider("cpu")
    check_inputs([reference], inputs.shape, reference.ref.name)
    job = Job(kind="infer", sessions=(plan_session(reference, here),), inputs=inputs)
    outputs = open_target(here).run(job).sessions[0].outputs
    if len(outputs) != len(subject.signature.outputs):
        raise UsageError(
            where=reference.path,
            expected=f"as many outputs as the INT8 file has ({len(subject.signature.outputs)})",
            found=f"{len(outputs)}",
            todo="give the float file that it was made from",
        )
    return outputs


def _make_inputs(
    subject: Subject,
    reference: Subject | None,
    data: str | None,
    preprocess: str | None,
    num_samples: int,
    seed: int,
) -> tuple[NDArray[np.float32], str]:
    if data is not None:
        dataset = open_dataset(data, split="check")
        known = [subject] if reference is None else [subject, reference]
        how = choose_preprocess(dataset, known, preprocess)
        inputs = load_arrays(dataset, how, limit=num_samples)
        check_inputs([subject], inputs.shape, data)
        return inputs, dataset.source
    return draw_noise(subject, _NOISE_IMAGES, seed)
