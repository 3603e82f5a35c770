"""What `quantize` and `calibrate` read: a float model that can be quantized, and images preprocessed for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from mbdeploy import data, model_file
from mbdeploy.card import Preprocess
from mbdeploy.errors import DataError, ModelError, UsageError
from mbdeploy.quant import qdq, ranges
from mbdeploy.quant.calibrate import Calibration
from mbdeploy.quant.calibration_file import load_seen, read_cache
from mbdeploy.quant.prepare import prepare_model

METHODS = ("minmax", *ranges.METHODS)
_BATCH = 8
#: Operators of files whose weights or activations are integers already, statically or as they run.
_QUANTIZED = {"DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"}


class Material(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """A float model as it was read and as the quantizer wants it, what in it becomes int8, and the images.

    ``images`` is None where none were given.
    """

    model: onnx.ModelProto
    prepared: onnx.ModelProto
    plan: qdq.Plan
    images: data.Dataset | None
    preprocess: Preprocess | None
    image_shape: tuple[int, int, int] | None

    def read_images(self) -> Iterator[NDArray[np.float32]]:
        """The images in batches, in their order."""
        assert self.images is not None
        batches = data.load_batches(self.images, self.preprocess, batch_size=_BATCH, input_shape=self.image_shape)
        for batch in batches:
            yield batch.inputs


def read_material(request: dict[str, Any], images: data.Dataset | None) -> Material:
    """Read ``request["model"]`` and settle how ``images`` are preprocessed for it (``request["preprocess"]``).

    Raises:
        ModelError: not a float model that can be quantized. UsageError: images and no preprocessing.
    """
    source = Path(request["model"])
    model = model_file.load_whole(source)
    signature = model_file.read_signature(model, source)
    _refuse_unsuitable(model, source)
    preprocess = _choose_preprocess(model, request["preprocess"], signature, images, source)
    prepared = prepare_model(model)
    plan = qdq.Plan(prepared)
    if not plan.layers:
        raise ModelError(
            where=source,
            expected="a float model with Conv, Gemm or MatMul on constant weights",
            found="none that could be quantized",
            todo="check that this is a float file, and run `mbdeploy simplify` on it first",
        )
    return Material(
        model=model,
        prepared=prepared,
        plan=plan,
        images=images,
        preprocess=preprocess,
        image_shape=signature.image_shape,
    )


def read_calibration(path: Path, model: Path, plan: qdq.Plan, method: str, needed: Collection[str]) -> Calibration:
    """Ranges from a file: ours (with channel means), or ONNX Runtime's calibration cache (``.json``; without).

    ``plan`` is the whole model's; ``needed`` are the tensors that carry scales where some of its nodes stay in float.

    Raises:
        DataError: not such a file. ModelError: it is of another model. UsageError: ``needed`` asks for one more.
    """
    known = set(plan.tensors)
    if unseen := [name for name in needed if name not in known]:
        raise UsageError(
            where=path,
            expected="ranges of all tensors that carry scales",
            found=f"none of {unseen[0]!r}, which carries one only because of --keep-float",
            todo="keep the node that makes it in float, too, or quantize with --calibration alone",
        )
    if path.suffix == ".json":
        return Calibration(read_cache(path, plan.tensors), {})
    seen = load_seen(path)
    if seen.identity.model != model_file.digest_model(model) or set(seen.identity.tensors) != set(plan.tensors):
        raise ModelError(
            where=path,
            expected=f"calibration of {model.name}",
            found="calibration of another file",
            todo="run `mbdeploy calibrate` on this very file",
        )
    if method != "minmax" and not seen.identity.counting:
        raise DataError(
            where=path,
            expected=f"counts of values, which {method} needs",
            found="extremes only",
            todo="calibrate with --calibration-method mse, percentile or entropy, or quantize with minmax",
        )
    return seen.whole().choose(method)


def refuse_unknown_method(method: str) -> None:
    if method not in METHODS:
        raise UsageError(
            where=method,
            expected=f"a calibration method ({', '.join(METHODS)})",
            found="no such method",
            todo="choose one of these with --calibration-method",
        )


def _choose_preprocess(
    model: onnx.ModelProto,
    word: str | None,
    signature: model_file.Signature,
    images: data.Dataset | None,
    where: Path,
) -> Preprocess | None:
    """The user's word, else the file's own; arrays are preprocessed already, so that they can do without."""
    if word is not None:
        channels, height, width = signature.image_shape or (signature.shape[1] or 3, signature.shape[2] or 224, None)
        return data.resolve_preprocess(word, size=height, channels=channels, width=width)
    own = model_file.read_preprocess(model)
    if own is None and images is not None and images.samples[0].row is None:
        raise UsageError(
            where=where,
            expected="preprocessing in the file, or --preprocess",
            found="a file that mbdeploy did not export, and no --preprocess",
            todo="give --preprocess imagenet, tf, lite, unit, raw or a TOML file",
        )
    return own


def _refuse_unsuitable(model: onnx.ModelProto, source: Path) -> None:
    operators = {node.op_type for node in model.graph.node}
    if operators & _QUANTIZED or any(name.startswith("QLinear") for name in operators):
        raise ModelError(
            where=source, expected="a float model", found="one that is quantized already", todo="give the FP32 file"
        )
    opset = model_file.read_opset(model)
    if opset < model_file.QUANTIZED_OPSET:
        raise ModelError(
            where=source,
            expected=f"opset {model_file.QUANTIZED_OPSET} or newer, for scales per channel",
            found=f"opset {opset}",
            todo="raise it with `mbdeploy simplify`, or export it again with a newer opset",
        )
