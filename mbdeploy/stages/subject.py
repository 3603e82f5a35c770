"""A model file under test, as the measuring stages see it: identity, input, kind, and what must lie beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from mbdeploy import model_file
from mbdeploy.card import Labels, Preprocess
from mbdeploy.data import Dataset, resolve_preprocess
from mbdeploy.errors import DataError, UsageError
from mbdeploy.isolate import Progress
from mbdeploy.model_file import Signature
from mbdeploy.preflight import check_model
from mbdeploy.preflight.external import take_in
from mbdeploy.results import Mode, ModelRef
from mbdeploy.targets import Provider, Ran, Session, Target, parse_provider
from mbdeploy.targets.providers import compiles

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

Kind = Literal["fp32", "simplified", "fp16", "int8"]
_KINDS = ("fp32", "simplified", "fp16", "int8")
#: External data up to this are read: they may be an output's scale.
_SCALE_BYTES = 1 << 10
#: What an image of noise is like where the file leaves it open.
_NOISE_SHAPE = (3, 224, 224)
_OPTIMIZATION: dict[Mode, Literal["all", "none"]] = {"executed": "all", "exact": "none"}


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """One model under test. ``output_scales`` are the INT8 steps of the outputs, None where an output has none.

    ``companions`` are the files that hold its external data; ``labels`` is None in a file that does not say.
    """

    ref: ModelRef
    path: Path
    signature: Signature
    kind: Kind
    preprocess: Preprocess | None
    labels: Labels | None
    output_scales: tuple[float | None, ...]
    companions: tuple[str, ...]
    opset: int = 0
    ir_version: int = 0


def read_subjects(paths: Sequence[Path], kind: Kind | None = None) -> list[Subject]:
    """Read every file; files of one name are told apart by their folders.

    Raises:
        UsageError: no file at all.
        ModelError: a file that is no vision model.
    """
    if not paths:
        raise UsageError(expected="at least one model", found="none", todo="name an ONNX file")
    subjects = [read_subject(path, kind) for path in paths]
    counts = Counter(subject.ref.name for subject in subjects)
    return [subject if counts[subject.ref.name] == 1 else _rename(subject) for subject in subjects]


def read_subject(path: Path, kind: Kind | None = None) -> Subject:
    """Read one file. Its kind is ``kind``, else int8 if it quantizes anything, else what mbdeploy wrote into it.

    (Other tools copy our metadata into what they make of our files.)
    """
    checked = check_model(path)
    model = checked.model
    take_in(model.graph.initializer, path, most=_SCALE_BYTES)
    entries = model_file.read_metadata(model)
    stage = entries.get("mbdeploy.stage")
    quantizes = any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in model.graph.node)
    found: Kind = "int8" if quantizes else stage if stage in _KINDS else "fp32"  # type: ignore[assignment]
    return Subject(
        ref=model_file.describe_model(path, checked.companions),
        path=path,
        signature=model_file.read_signature(model, path),
        kind=kind or found,
        preprocess=model_file.read_preprocess(model),
        labels=model_file.read_labels(model),
        output_scales=tuple(_find_scale(model, output.name) for output in model.graph.output),
        companions=checked.companions,
        opset=model_file.read_opset(model),
        ir_version=model.ir_version,
    )


def choose_preprocess(dataset: Dataset, subjects: Sequence[Subject], word: str | None) -> Preprocess | None:
    """How the data become input for all subjects: the user's word, else the first file that says.

    None means as they are: rows of an array file, of which nobody says anything.

    Raises:
        UsageError: images, and neither the user nor a file says how.
    """
    if word is None and dataset.samples[0].row is not None:
        return None
    own = next((subject.preprocess for subject in subjects if subject.preprocess is not None), None)
    if word is None and own is not None:
        return own
    shapes = (subject.signature.image_shape for subject in subjects)
    shape = next((shape for shape in shapes if shape is not None), (3, 224, 224))
    return resolve_preprocess(word, size=shape[1], channels=shape[0], width=shape[2])


def check_inputs(subjects: Sequence[Subject], shape: Sequence[int], where: object) -> None:
    """Refuse inputs (n, c, h, w) that a subject cannot take, before any runtime sees them."""
    if shape[0] == 0:
        raise DataError(where=where, expected="at least one image", found="none", todo="give some")
    for subject in subjects:
        wanted = subject.signature.shape[1:]
        if any(axis not in (None, size) for axis, size in zip(wanted, shape[1:], strict=True)):
            raise DataError(
                where=where,
                expected=f"images of {list(wanted)} (channels, height, width), which {subject.ref.name} takes",
                found=f"{list(shape[1:])}",
                todo="give images preprocessed for this model, or compare models of one resolution",
            )


def draw_noise(subject: Subject, count: int, seed: int) -> tuple[NDArray[np.float32], str]:
    """So many images of noise that the subject takes, (n, c, h, w), and what they are called."""
    import numpy as np

    shape = tuple(size or usual for size, usual in zip(subject.signature.shape[1:], _NOISE_SHAPE, strict=True))
    return np.random.default_rng(seed).standard_normal((count, *shape), np.float32), f"noise (seed {seed})"


def plan_session(
    subject: Subject,
    provider: Provider,
    *,
    mode: Mode = "executed",
    threads: int = 1,
    provider_options: Mapping[str, str] | None = None,
    session_config: Mapping[str, str] | None = None,
    allow_fallback: bool = False,
) -> Session:
    """How a subject is opened on a provider: ``exact`` turns graph optimisation off, which only ONNX Runtime can."""
    if threads < 1:
        raise UsageError(expected="1 thread or more", found=str(threads), todo="say how many with --threads")
    if session_config and provider.runtime != "onnxruntime":
        raise UsageError(
            where=provider.word,
            expected=f"options of {provider.runtime}, which has no session configuration",
            found=f"--session-config {', '.join(session_config)}",
            todo="give its properties by --provider-option, and ONNX Runtime's providers a call of their own",
        )
    return Session(
        model=subject.path,
        companions=subject.companions,
        runtime=provider.runtime,
        provider=provider.ep,
        provider_options={**provider.options, **(provider_options or {})},
        session_config=dict(session_config or {}),
        optimization=_OPTIMIZATION[mode],
        threads=threads,
        allow_fallback=allow_fallback,
        opset=subject.opset,
        ir_version=subject.ir_version,
    )


def choose_spinning(provider: Provider, threads: int) -> dict[str, str]:
    """Session entries for sessions that take turns: idle threads of one must not slow down the next one."""
    return {"session.force_spinning_stop": "1"} if threads > 1 and provider.runtime == "onnxruntime" else {}


def is_exact_borrowed(provider: Provider, target: Target) -> bool:
    """Whether exact outputs are to come from ONNX Runtime on this machine's CPU.

    They are float arithmetic, which an emulator is slow at, and which providers that compile Q/DQ have no mode for.
    """
    return target.emulated or compiles(provider.ep)


def name_provider(provider: Provider, *sessions: Ran) -> str:
    """The provider's word, as rows of these sessions are labelled: one that fell back or is simulated says so."""
    for key, label in (("fallback", "fell back to cpu"), ("simulated", "simulated")):
        if any(key in ran.settings for ran in sessions):
            return f"{provider.word} ({label})"
    return provider.word


def read_word(label: str) -> str:
    """The provider's word in a label of ``name_provider``; no word has a space in it."""
    return label.partition(" ")[0]


def list_tools(providers: Sequence[str]) -> tuple[str, ...]:
    """The distributions whose versions decide what these providers answer."""
    runtimes = {parse_provider(word).runtime for word in providers}
    return ("numpy", *sorted({"onnxruntime", *runtimes}))


def entitle(on_progress: Progress, title: str) -> Progress:
    """A Progress that shows the agent's steps under the stage's own title."""
    return lambda _, done, total: on_progress(title, done, total)


def _rename(subject: Subject) -> Subject:
    name = f"{subject.path.resolve().parent.name}/{subject.ref.name}"
    return msgspec.structs.replace(subject, ref=msgspec.structs.replace(subject.ref, name=name))


def _find_scale(model: onnx.ModelProto, output: str) -> float | None:
    """The scale of the DequantizeLinear that makes this output, if one does and has a single one."""
    from onnx import numpy_helper

    producer = next((node for node in model.graph.node if output in node.output), None)
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    scale = next((tensor for tensor in model.graph.initializer if tensor.name == producer.input[1]), None)
    if scale is None or numpy_helper.to_array(scale).size != 1:
        return None
    return float(numpy_helper.to_array(scale).reshape(()))
