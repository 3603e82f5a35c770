"""What an export is asked to do, settled before anything heavy runs: source, preprocessing, golden images, identity."""

from __future__ import annotations

import re
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any, Literal

import msgspec

from mbdeploy import artifact, data
from mbdeploy.artifact import Provenance
from mbdeploy.card import ModelCard, Preprocess, Weights, card_digest, load_card
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.model_file import digest_model

Exporter = Literal["dynamo", "torchscript"]
Shape = tuple[int, int, int]
DEFAULT_OPSET = 18
GOLDEN_SPLIT = "check"
_EXPORTERS = ("dynamo", "torchscript")
_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One export as both processes know it.

    ``card`` is None for a .pt2 file, which ``program`` names; for a bare factory it is made up and has
    no path. ``golden_folder`` is where a card's own data may lie.
    """

    where: str
    card: ModelCard | None
    program: str | None
    trust: bool
    preprocess: Preprocess
    exporter: Exporter
    opset: int
    golden_data: str
    golden_folder: str | None
    num_golden_samples: int

    @property
    def described(self) -> ModelCard | None:
        """The card that somebody wrote: then its task, labels, budgets and claims hold."""
        return self.card if self.card is not None and self.card.path else None

    @property
    def adopted(self) -> bool:
        """Whether the network is an ONNX file, which is taken in and not exported."""
        return self.card is not None and self.card.is_file

    @property
    def shape(self) -> Shape:
        """One image as the network takes it: (channels, height, width)."""
        return self.preprocess.shape


def settle_job(
    source: str | Path,
    *,
    exporter: Exporter = "dynamo",
    opset: int | None = None,
    trust: bool = False,
    weights: str | None = None,
    preprocess: str | None = None,
    input_shape: Shape | None = None,
    golden_data: str | None = None,
    num_golden_samples: int = 32,
) -> Job:
    """Everything that ``export`` was told and what the card says, in one record; see ``export``.

    Raises:
        UsageError, CardError, ModelError: what is missing or contradicts itself.
    """
    where = str(source)
    if exporter not in _EXPORTERS:
        raise UsageError(where=exporter, expected=" or ".join(_EXPORTERS), found="another word", todo="choose one")
    program = where if where.endswith(".pt2") else None
    card = None if program else _find_card(where)
    _check_trust(where, card, program, trust)
    if program is not None:
        _check_program(program, exporter, weights)
    if card is not None and weights is not None:
        card = msgspec.structs.replace(card, weights=_read_weights(weights))
    described = card if card is not None and card.path else None
    if described is None and golden_data is None:
        raise UsageError(
            where=where,
            expected="real images for golden.npz, as no card names any",
            found="no golden data",
            todo="give --golden-data FOLDER (or a .csv, .npz, or the name of a manifest)",
        )
    settled = _settle_preprocess(described, preprocess, input_shape, where)
    return Job(
        where=where,
        card=None if card is None else msgspec.structs.replace(card, preprocess=settled),
        program=program,
        trust=trust,
        preprocess=settled,
        exporter=exporter,
        opset=DEFAULT_OPSET if opset is None else opset,
        golden_data=golden_data or (described.quantization.calibration if described else ""),
        golden_folder=str(Path(described.path).parent) if described and golden_data is None else None,
        num_golden_samples=num_golden_samples,
    )


def describe_job(job: Job) -> Provenance:
    """How the files of this export come to be, without a path in it: digests stand for what was read."""
    params: dict[str, Any] = {
        "source": Path(job.where).name,
        "exporter": job.exporter,
        "opset": job.opset,
        "num_golden_samples": job.num_golden_samples,
    }
    parents = {"golden_data": open_golden_data(job).digest()}
    if job.card is not None:
        params["card"] = card_digest(job.card)
        file = job.card.weights.file
        params["card"]["weights"]["file"] = file and Path(file).name
        if job.adopted:
            parents["network"] = _digest_network(job.card)
        if job.card.factory is not None:
            parents["factory"] = _digest_module(job.card.factory.partition(":")[0])
    if job.program is not None:
        params["preprocess"] = msgspec.to_builtins(job.preprocess)
        parents["program"] = artifact.digest_file(Path(job.program))
    tools = artifact.read_tools("torch", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow")
    return Provenance(stage="export", params=params, parents=parents, tools=tools)


def open_golden_data(job: Job) -> data.Dataset:
    """The images of golden.npz, not read yet."""
    folder = Path(job.golden_folder) if job.golden_folder else None
    return data.open_dataset(job.golden_data, split=GOLDEN_SPLIT, limit=job.num_golden_samples, card_dir=folder)


def _find_card(where: str) -> ModelCard:
    if not _FACTORY.fullmatch(where):
        return load_card(where)
    # The preprocessing is replaced before anyone reads it: a bare factory has none.
    return ModelCard(
        name=where.partition(":")[2],
        summary=f"made by {where}",
        factory=where,
        weights=Weights(seed=0),
        preprocess=Preprocess(size=1),
    )


def _check_trust(where: str, card: ModelCard | None, program: str | None, trust: bool) -> None:
    if trust or (program is None and card is not None and card.factory is None):
        return
    raise UsageError(
        where=where,
        expected="--trust, because this source can run code of its own",
        found="a .pt2 file, which torch unpickles" if program else "a factory, which is code",
        todo="give --trust if you trust where it comes from",
    )


def _check_program(program: str, exporter: Exporter, weights: str | None) -> None:
    if not Path(program).is_file():
        raise ModelError(
            where=program, expected="a program of torch.export", found="no such file", todo="check the path"
        )
    refused = "--weights" if weights is not None else "--exporter torchscript" if exporter == "torchscript" else ""
    if refused:
        raise UsageError(
            where=program,
            expected="options that a .pt2 file can follow: it is traced already, and carries its weights",
            found=refused,
            todo="leave it out, or export from a factory",
        )


def _read_weights(weights: str) -> Weights:
    path = Path(weights)
    if not path.is_file():
        raise UsageError(where=weights, expected="a weights file", found="no such file", todo="check --weights")
    return Weights(file=str(path.resolve()), sha256=artifact.digest_file(path))


def _settle_preprocess(card: ModelCard | None, word: str | None, shape: Shape | None, where: str) -> Preprocess:
    own = card.preprocess if card is not None else None
    if shape is not None and not (shape[0] in (1, 3) and 1 <= min(shape[1:]) <= max(shape[1:]) <= 8192):
        raise _refuse_shape(where, "an input of 1 or 3 channels (C, H, W), of 1 to 8192 pixels each way", shape)
    if word is None and own is not None:
        if shape is None:
            return own
        if shape[0] != own.channels:
            raise _refuse_shape(where, f"{own.channels} channels, as the card's preprocessing gives", shape)
        # The margin that is cut off stays the same share of the image.
        resize = None if own.resize is None else max(shape[1], round(own.resize * shape[1] / own.size))
        return msgspec.structs.replace(own, size=shape[1], width=_name_width(shape), resize=resize)
    channels, size, width = shape or (own.shape if own else (3, 0, 0))
    if size == 0 and word is not None and not word.endswith(".toml"):
        raise UsageError(
            where=where,
            expected="the size of the network's input, as no card says it",
            found="no input shape",
            todo="give --input-shape, such as 3,224,224",
        )
    settled = data.resolve_preprocess(word, size=size, channels=channels, width=width)
    if shape is not None and shape != settled.shape:
        raise _refuse_shape(where, f"{','.join(map(str, settled.shape))} as in {word}", shape)
    return settled


def _name_width(shape: Shape) -> int | None:
    """The width as preprocessing has it: None of a square."""
    return None if shape[2] == shape[1] else shape[2]


def _refuse_shape(where: str, expected: str, shape: Shape) -> UsageError:
    found = ",".join(map(str, shape))
    return UsageError(where=where, expected=expected, found=f"input shape {found}", todo="change --input-shape")


def _digest_network(card: ModelCard) -> str:
    """Of the ONNX file that a card names, as it is now; of one that is gone, as the card says."""
    path = Path(card.path).parent / str(card.weights.file)
    return digest_model(path) if path.is_file() else str(card.weights.sha256)


def _digest_module(module: str) -> str:
    # Found by path alone: find_spec("a.b") would import a, and code runs in the child only.
    top, *inner = module.split(".")
    spec = PathFinder.find_spec(top, [str(Path.cwd()), *sys.path])
    if spec is None:
        return "absent"
    files = [Path(spec.origin)] if spec.origin else []
    if inner:
        bases = [Path(folder).joinpath(*inner) for folder in spec.submodule_search_locations or ()]
        files = [file for base in bases for file in (base.with_suffix(".py"), base / "__init__.py")]
    found = next((file for file in files if file.is_file()), None)
    return "absent" if found is None else artifact.digest_file(found)
