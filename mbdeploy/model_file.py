"""ONNX files as files: read them without native code, refuse what is none, and keep what we know in their metadata."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from mbdeploy.artifact import digest_file
from mbdeploy.card import Labels, Preprocess
from mbdeploy.decoding import decode_json
from mbdeploy.errors import ModelError
from mbdeploy.preflight import check_model
from mbdeploy.preflight.external import take_in
from mbdeploy.preflight.walking import find_places
from mbdeploy.results import ModelRef

if TYPE_CHECKING:
    import onnx


T = TypeVar("T")

#: The first opset in which Q/DQ take a scale per channel.
QUANTIZED_OPSET = 13


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The one image input (NCHW float32; None where an axis is dynamic) and the outputs of a vision model."""

    input: str
    shape: tuple[int | None, int | None, int | None, int | None]
    outputs: tuple[str, ...]

    @property
    def batch(self) -> int | None:
        """The batch size the file is fixed to, or None if it is dynamic."""
        return self.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """The (channels, height, width) that the file is fixed to, or None if one of them is dynamic."""
        _, channels, height, width = self.shape
        if channels is None or height is None or width is None:
            return None
        return channels, height, width


def load_model(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, once preflight has nothing against it (no checker, no shape inference).

    Raises:
        ModelError: missing, empty, truncated, something else under an ONNX name, or beyond the limits in force
            (:mod:`mbdeploy.bounds`); see :func:`mbdeploy.preflight.check_model`.
    """
    return check_model(path).model


def load_whole(path: Path) -> onnx.ModelProto:
    """The same with the data of files beside the model in the model itself.

    Raises:
        ModelError: see ``load_model``.
    """
    model = check_model(path).model
    take_in(find_places(model).tensors, path)
    return model


def copy_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of its own with the same content."""
    copy = type(model)()
    copy.CopyFrom(model)
    return copy


def list_readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each tensor, in the order of the graph; one that reads it twice is there twice."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    return readers


def read_signature(model: onnx.ModelProto, where: object = "") -> Signature:
    """The model's image input and its outputs.

    Raises:
        ModelError: no or several inputs, not float32, or not four axes (NCHW).
    """
    import onnx

    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        found = f"{len(inputs)} inputs ({', '.join(value.name for value in inputs[:4])})"
        raise ModelError(
            where=where,
            expected="one image input",
            found=found,
            todo="cut the graph so that it has one, or fold the others into constants",
        )
    kind = inputs[0].type.tensor_type
    if kind.elem_type != onnx.TensorProto.FLOAT:
        names = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        raise ModelError(
            where=where,
            expected="a float32 input",
            found=f"{names.get(kind.elem_type, f'type {kind.elem_type}')} in {inputs[0].name!r}",
            todo="export the model in float32; mbdeploy makes the other precisions",
        )
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in kind.shape.dim)
    if len(shape) != 4 or any(axis is not None and axis < 1 for axis in shape):
        raise ModelError(
            where=where,
            expected="an input of four axes (batch, channels, height, width)",
            found=f"{list(shape)} in {inputs[0].name!r}",
            todo="export the model with NCHW images",
        )
    return Signature(
        input=inputs[0].name,
        shape=(shape[0], shape[1], shape[2], shape[3]),
        outputs=tuple(value.name for value in model.graph.output),
    )


def read_opset(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model imports; 0 if it imports none."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def read_metadata(model: onnx.ModelProto) -> dict[str, str]:
    """The file's ``metadata_props`` as a dict."""
    return {entry.key: entry.value for entry in model.metadata_props}


def write_metadata(model: onnx.ModelProto, entries: Mapping[str, str]) -> None:
    """Set these ``metadata_props``, keep the others, and order all by key, so that equal content is equal bytes."""
    merged = {**read_metadata(model), **entries}
    del model.metadata_props[:]
    for key in sorted(merged):
        model.metadata_props.add(key=key, value=merged[key])


def read_preprocess(model: onnx.ModelProto) -> Preprocess | None:
    """The preprocessing that ``export`` wrote into the file, or None in a foreign one."""
    return _read_entry(model, "mbdeploy.preprocess", Preprocess, "give --preprocess, which overrides it")


def read_labels(model: onnx.ModelProto) -> Labels | None:
    """The names of the classes that ``export`` wrote into the file, or None in a foreign one."""
    return _read_entry(model, "mbdeploy.labels", Labels, "export the file again, or take the entry out")


def _read_entry(model: onnx.ModelProto, key: str, kind: type[T], todo: str) -> T | None:
    text = read_metadata(model).get(key)
    if text is None:
        return None
    try:
        return decode_json(text, kind)
    except msgspec.MsgspecError as error:
        raise ModelError(
            expected=f"what mbdeploy writes in the metadata `{key}`", found=str(error)[:200], todo=todo
        ) from error


def save_model(model: onnx.ModelProto, path: Path) -> None:
    """Serialise deterministically to ``path`` (wrap it in ``artifact.writing``)."""
    path.write_bytes(model.SerializeToString(deterministic=True))


def describe_model(path: Path, companions: Sequence[str] | None = None) -> ModelRef:
    """Name, digest (see ``digest_model``) and size of a model file."""
    sha256 = digest_model(path, companions)
    return ModelRef(name=path.stem, path=str(path), sha256=sha256, size_bytes=path.stat().st_size)


def digest_model(path: Path, companions: Sequence[str] | None = None) -> str:
    """The sha256 of a model: that of its file, unless files beside it hold its data; then of all their digests.

    ``companions`` are these files as preflight names them; None where they are not known yet.

    Raises:
        ModelError: files that preflight refuses. OSError: no such model.
    """
    own = digest_file(path)
    if companions is None:
        companions = check_model(path).companions if _may_point_elsewhere(path) else ()
    if not companions:
        return own
    files = ((name, digest_file(path.parent / name)) for name in sorted(companions))
    return hashlib.sha256(msgspec.json.encode([own, *files])).hexdigest()


def _may_point_elsewhere(path: Path) -> bool:
    """Whether the file holds the one key that external data must have: most do not, and need no parser to tell."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(b"location") >= 0


def dump_json(value: Any) -> str:
    """Compact JSON with sorted keys, as metadata values hold it."""
    return msgspec.json.encode(value, order="sorted").decode()
