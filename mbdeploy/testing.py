"""For users' own test suites: ``assert_parity`` says that a model gives the answers of a reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbdeploy.errors import DataError, UsageError
from mbdeploy.quant.metrics import check, compare_outputs
from mbdeploy.results import Check, Metrics
from mbdeploy.stages.facts import ParityFact
from mbdeploy.stages.figures import tabulate_checks, tabulate_parity
from mbdeploy.stages.subject import check_inputs, plan_session, read_subject
from mbdeploy.stages.tables import render_tables
from mbdeploy.targets import Job, Ran, open_target, parse_provider

Outputs = ArrayLike | Sequence[ArrayLike] | Mapping[str, ArrayLike]
Reference = str | Path | Callable[[Any], Any] | Outputs
_COMPARISONS: Mapping[str, Literal[">=", "<="]] = {
    "max_abs": "<=",
    "sqnr_db": ">=",
    "cosine": ">=",
    "top1_agreement": ">=",
    "max_lsb": "<=",
}


def assert_parity(
    model: str | Path,
    reference: Reference,
    inputs: ArrayLike,
    *,
    provider: str = "cpu",
    threads: int = 1,
    max_abs: float | None = None,
    sqnr_db: float | None = None,
    cosine: float | None = None,
    top1_agreement: float | None = None,
    max_lsb: float | None = None,
) -> tuple[Metrics, ...]:
    """Assert that the ONNX file ``model`` gives the outputs of ``reference`` for ``inputs`` (n, c, h, w), float32.

    ``reference`` is an ONNX file (run on this CPU), a function of the inputs (a torch module wants
    ``lambda x: module(torch.from_numpy(x))``), or its outputs: one array (n, …), or one for each output. Rules: 1. at
    least one bound is given: the largest absolute difference, SQNR in dB, cosine, share of equal best classes (0..1),
    or the distance in steps of the INT8 output. 2. Every output must hold every bound; NaN, infinite, empty,
    unlike-shaped and constant outputs never do. 3. The metrics come back, one for each output.

    Raises:
        AssertionError: a bound that does not hold, with the metrics as a table. UsageError: no bound.
        DataError: inputs that the model does not take, or another number of outputs. UnavailableError: no such
        provider here. StepError: a model that the runtime refuses.
    """
    given = {
        "max_abs": max_abs,
        "sqnr_db": sqnr_db,
        "cosine": cosine,
        "top1_agreement": top1_agreement,
        "max_lsb": max_lsb,
    }
    bounds = {name: bound for name, bound in given.items() if bound is not None}
    if not bounds:
        raise UsageError(
            where=model, expected=f"a bound ({', '.join(given)})", found="none", todo="say what has to hold"
        )
    images = np.ascontiguousarray(inputs, np.float32)
    ran, scales = _run(Path(model), images, provider, threads)
    expected = _take_reference(reference, images)
    if len(expected) != len(ran.outputs):
        raise DataError(
            where=model,
            expected=f"a reference for each of its {len(ran.outputs)} outputs",
            found=str(len(expected)),
            todo="give one array for each output, in their order",
        )
    found = tuple(
        compare_outputs(ref, output, scale) for ref, output, scale in zip(expected, ran.outputs, scales, strict=True)
    )
    gates = [
        _judge(name, bound, metrics, f"{Path(model).stem} on {provider}, output {output}")
        for metrics, output in zip(found, ran.output_names, strict=True)
        for name, bound in bounds.items()
    ]
    if not all(gate.passed for gate in gates):
        raise AssertionError(_describe(Path(model).stem, provider, ran.output_names, found, gates))
    return found


def _run(model: Path, images: NDArray[np.float32], provider: str, threads: int) -> tuple[Ran, tuple[float | None, ...]]:
    subject = read_subject(model)
    check_inputs([subject], images.shape, "inputs")
    asked = parse_provider(provider)
    session = plan_session(subject, asked, threads=threads)
    answer = open_target(asked).run(Job(kind="infer", sessions=(session,), inputs=images))
    return answer.sessions[0], subject.output_scales


def _take_reference(reference: Reference, images: NDArray[np.float32]) -> list[NDArray[Any]]:
    if isinstance(reference, str | Path):
        return list(_run(Path(reference), images, "cpu", 1)[0].outputs)
    outputs: Any = reference(images) if callable(reference) else reference
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    several = isinstance(outputs, list | tuple) and len(outputs) > 0 and np.ndim(_plain(outputs[0])) > 0
    return [_plain(output) for output in outputs] if several else [_plain(outputs)]


def _plain(output: Any) -> NDArray[Any]:
    """An array, also of a torch tensor that carries gradients or lies on a device."""
    return np.asarray(output.detach().cpu() if hasattr(output, "detach") else output)


def _judge(name: str, bound: float, metrics: Metrics, subject: str) -> Check:
    value = math.nan if metrics.degenerate else getattr(metrics, name)
    return check(name, subject, value, bound, _COMPARISONS[name])


def _describe(model: str, provider: str, names: Sequence[str], found: Sequence[Metrics], gates: Sequence[Check]) -> str:
    facts = [
        ParityFact(
            model=model, provider=provider, output=name, executed=metrics, exact=None, saturation=None, elsewhere=()
        )
        for name, metrics in zip(names, found, strict=True)
    ]
    return "outputs differ\n\n" + render_tables([*tabulate_parity(facts), *tabulate_checks(gates)])
