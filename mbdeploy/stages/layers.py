"""SQNR of an INT8 file's tensors along the network against its float file, as the runtime executes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import model_file
from mbdeploy.artifact import Provenance
from mbdeploy.decoding import decode_json
from mbdeploy.errors import StepError, UsageError
from mbdeploy.isolate import Progress
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import LayerCurve, LayerRow, Metrics
from mbdeploy.stages.bisect_runs import Values, open_here, run_models, run_parts
from mbdeploy.stages.subject import Subject, entitle, name_provider, plan_session, read_subject
from mbdeploy.targets import Provider, Ran, Session, Target
from mbdeploy.tracing.cuts import end_at
from mbdeploy.tracing.pairs import Pair, mark_outputs, pair_tensors
from mbdeploy.tracing.search import WIDTH

#: Every tensor of every layer is kept for so many images, in float and in 8 bits.
_IMAGES = 8
#: Operators that only bring a tensor into another layout: each one that is handed out may need one more.
_LAYOUT = frozenset({"Transpose", "Reorder", "ReorderInput", "ReorderOutput"})

#: How the tensors were had, the provider as it is labelled, and the tensors.
_Executed = tuple[Literal["at once", "one by one"], str, list[NDArray[Any]]]


class Twins(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """An INT8 file and the float file that it was made from, with the tensors that both have."""

    subject: Subject
    origin: Subject
    model: onnx.ModelProto
    floats: onnx.ModelProto
    pairs: list[Pair]
    unpaired: list[str]


def list_origins(models: Iterable[Path], reference: Path | None) -> list[Path]:
    """Files that an INT8 file among the models may have been made from, beside the models themselves."""
    given = {path.resolve(): path for path in models}
    beside = [path.parent / name for path in given.values() for name in ("simplified.onnx", "fp32.onnx")]
    found = [path for path in (reference, *beside) if path is not None and path.is_file()]
    return [path for path in dict.fromkeys(found) if path.resolve() not in given]


def find_twins(subjects: Sequence[Subject], reference: Path | None) -> list[Twins]:
    """Every INT8 file of the subjects with its float file.

    Rules: 1. a file that ``quantize`` made names its float file by its digest, and only that one will do. 2. For others
    it is the last float file given before it, else the first after it, then ``reference``, then what lies beside it.

    Raises:
        UsageError: no INT8 file, or one without a float file.
    """
    quantized = [subject for subject in subjects if subject.kind == "int8"]
    if not quantized:
        raise UsageError(
            where="--layers", expected="an INT8 file", found="none among the models", todo="name one, or leave it out"
        )
    beside = [read_subject(path) for path in list_origins([subject.path for subject in quantized], reference)]
    return [_find_twins(subject, subjects, beside) for subject in quantized]


def record_layers(
    twins: Twins,
    opened: Sequence[tuple[Provider, Target]],
    inputs: Values,
    settings: Mapping[str, Any],
    on_progress: Progress,
    *,
    one_by_one: bool = True,
) -> list[LayerCurve]:
    """One curve for each provider, over the first images; the float file runs on this CPU, with nothing optimised.

    Rules: 1. all 8-bit tensors are handed out by one session if that changes nothing: it must run the operators that
    the file alone runs (but for changes of layout), and give its outputs, bit by bit. 2. Else each is the end of a
    session of its own, which no fusion reaches beyond; not without ``one_by_one``, for it takes half a minute. 3. What
    is refused is said in the curve's ``note``.
    """
    inputs = inputs[:_IMAGES]
    expected: Sequence[NDArray[Any]] = ()
    curves = []
    for provider, target in opened:
        session = plan_session(twins.subject, provider, **settings)
        progress = entitle(on_progress, f"layers on {provider.word}")
        curve = LayerCurve(
            model=twins.subject.ref,
            origin=twins.origin.ref,
            provider=provider.word,
            way=None,
            layers=(),
            unpaired=tuple(twins.unpaired),
            note="" if twins.pairs else "it has no QuantizeLinear of a tensor that the float file has",
        )
        if twins.pairs:
            try:
                expected = expected or _run_float(twins, session, inputs, progress)
                ran = _run_at_once(twins, session, provider, target, inputs, progress)
                if ran is None and one_by_one:
                    ran = _run_one_by_one(twins, session, provider, target, inputs, progress)
                curve = _fill(curve, twins, expected, ran)
            except StepError as error:
                curve = msgspec.structs.replace(curve, note=f"it cannot be run layer by layer: {error.found}")
        curves.append(curve)
    return curves


def _find_twins(subject: Subject, subjects: Sequence[Subject], beside: Sequence[Subject]) -> Twins:
    model = model_file.load_whole(subject.path)
    place = subjects.index(subject)
    ordered = (*reversed(subjects[:place]), *subjects[place:], *beside)
    floats = [other for other in ordered if other.kind in ("fp32", "simplified")]
    wanted = _read_parent(model)
    origin = next((other for other in floats if wanted in (None, other.ref.sha256)), None)
    if origin is None:
        names = ", ".join(other.path.name for other in floats)
        raise UsageError(
            where=subject.path,
            expected="the float file that it was made from" + (f" (sha256 {wanted[:12]}…)" if wanted else ""),
            found=f"{names}, made anew since" if names else "none among the models, and none beside it",
            todo="name that file before it, or leave out --layers",
        )
    whole = model_file.load_whole(origin.path)
    pairs, unpaired = pair_tensors(model, whole)
    return Twins(subject=subject, origin=origin, model=model, floats=whole, pairs=pairs, unpaired=unpaired)


def _read_parent(model: onnx.ModelProto) -> str | None:
    """The digest of the float file that ``quantize`` made this one from; None if it did not, or does not say."""
    try:
        found = decode_json(model_file.read_metadata(model).get("mbdeploy.provenance", ""), Provenance)
    except msgspec.MsgspecError:
        return None
    return found.parents.get("model") if found.stage == "quantize" else None


def _run_float(twins: Twins, session: Session, inputs: Values, on_progress: Progress) -> list[NDArray[Any]]:
    """The float file's tensor for each pair; not optimised, so no fusion is undone."""
    names = list(dict.fromkeys(pair.tensor for pair in twins.pairs))
    part = end_at(twins.floats, names)
    assert part is not None  # it starts at the image
    plain, here = open_here(session)
    (outputs,) = run_parts(plain, here, [part], inputs, on_progress)
    found = dict(zip(names, outputs, strict=True))
    return [found[pair.tensor] for pair in twins.pairs]


def _run_at_once(
    twins: Twins, session: Session, provider: Provider, target: Target, inputs: Values, on_progress: Progress
) -> _Executed | None:
    """All tensors from one session; None if that changes what is run, or is refused."""
    whole = mark_outputs(twins.model, twins.pairs)
    try:
        plain, marked = run_models(session, target, [twins.model, whole], inputs, on_progress)
    except StepError:
        return None  # asking for these outputs may be what the runtime refuses
    if not _ran_alike(plain, marked):
        return None
    found = dict(zip((value.name for value in whole.graph.output), marked.outputs, strict=True))
    return "at once", name_provider(provider, plain), [found[pair.cut.tensor] for pair in twins.pairs]


def _run_one_by_one(
    twins: Twins, session: Session, provider: Provider, target: Target, inputs: Values, on_progress: Progress
) -> _Executed:
    values: list[NDArray[Any]] = []
    labels: set[str] = set()
    for start in range(0, len(twins.pairs), WIDTH):
        parts = [end_at(twins.model, [pair.cut.tensor]) for pair in twins.pairs[start : start + WIDTH]]
        for ran in run_models(session, target, [part for part in parts if part], inputs, on_progress):
            values.append(ran.outputs[0])
            labels.add(name_provider(provider, ran))
    return "one by one", max(labels, key=len), values


def _fill(curve: LayerCurve, twins: Twins, expected: Sequence[NDArray[Any]], executed: _Executed | None) -> LayerCurve:
    if executed is None:
        note = "its tensors can only be had one by one, which `mbdeploy verify --layers` does"
        return msgspec.structs.replace(curve, note=note)
    way, label, values = executed
    layers = tuple(map(_compare, twins.pairs, expected, values))
    return msgspec.structs.replace(curve, way=way, provider=label, layers=layers)


def _ran_alike(plain: Ran, marked: Ran) -> bool:
    """Whether the outputs that were added changed neither what was run nor what came out."""
    operators = [
        {name: count for name, count in ran.placement.operators.items() if name not in _LAYOUT}
        for ran in (plain, marked)
    ]
    own = marked.outputs[: len(plain.outputs)]
    return operators[0] == operators[1] and all(map(np.array_equal, plain.outputs, own))


def _compare(pair: Pair, expected: NDArray[Any], values: NDArray[Any]) -> LayerRow:
    decoded = pair.cut.decode(_drop_widened(values, expected.shape))
    metrics: Metrics = compare_outputs(expected, decoded, pair.cut.scale)
    return LayerRow(
        node=pair.cut.node,
        operator=pair.cut.operator,
        tensor=pair.tensor,
        sources=pair.sources,
        metrics=msgspec.structs.replace(metrics, top1_agreement=None),  # these are no classes
    )


def _drop_widened(values: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The channels that the float file has, too: ``quant/widen.py`` adds some that are one value throughout."""
    if values.ndim != len(shape) or values.ndim < 2 or values.shape[1] <= shape[1]:
        return values
    more = values[:, shape[1] :]
    return values[:, : shape[1]] if (more == more.flat[0]).all() else values
