"""``init``: from a network to a card with measured budgets and a workflow; and the same budgets measured again."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mbdeploy import artifact, model_file
from mbdeploy.card import Budgets, ModelCard, Quantization, Weights, load_card
from mbdeploy.data import find_data, is_manifest, name_path, resolve_preprocess
from mbdeploy.errors import OutputError, UsageError
from mbdeploy.gating.budgets import Budget, check_text, derive_budgets, replace_lines
from mbdeploy.gating.card_text import write_card
from mbdeploy.gating.measured import read_measured
from mbdeploy.gating.workflow import write_workflow
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.pipeline import StageRun, run

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class InitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an init measured: the budgets before and now, where the card's files lie, and which files were written."""

    card: str
    folder: str
    before: Budgets
    budgets: tuple[Budget, ...]
    written: tuple[str, ...]
    schema_version: int = 1


def init(
    source: str,
    *,
    output: Path | None = None,
    out: Path = Path("out"),
    ci: Path | None = Path(".github/workflows/mbdeploy.yml"),
    name: str | None = None,
    preprocess: str | None = None,
    input_shape: tuple[int, int, int] | None = None,
    calibration: str = "photos",
    num_calibration_samples: int = 128,
    recipe: str = "accurate",
    providers: Sequence[str] = ("cpu",),
    with_latency: bool = False,
    trust: bool = False,
    force: bool = False,
    on_stage: Callable[[StageRun], None] = lambda stage: None,
    on_progress: Progress = ignore_progress,
) -> InitRecord:
    """Write a card for ``source``, a factory "pkg.mod:fn" or an ONNX file, to ``output`` (default models/NAME.toml).

    Rules: 1. the network goes through the whole pipeline first, into ``out``/NAME; budgets come from what it measured
    (see ``derive_budgets``). 2. ``ci`` is the workflow to write; None for none. 3. A file that is there is never
    overwritten without ``force``, and that is said before any work. 4. A card is written last, when all went well.

    Raises:
        UsageError: a source of another kind, or without trust. OutputError: a file that is there.
        DataError: images that are not there.
        MbdeployError: whatever a stage of the pipeline refuses.
    """
    quantization = Quantization(recipe=recipe, calibration=calibration, num_calibration_samples=num_calibration_samples)
    card = _describe(source, name, preprocess, input_shape, quantization, output)
    if card.factory is not None and not trust:
        raise UsageError(
            where=source, expected="--trust, because a factory is code", found="none", todo="read it, then give --trust"
        )
    output = output or Path("models") / f"{card.name}.toml"
    for place in filter(None, (output, ci)):
        _refuse_existing(place, force=force)
    folder = out / card.name
    with artifact.writing(output) as draft:  # in the card's own folder, where data that it names are found
        draft.write_text(write_card(card), encoding="utf-8")
        run(
            str(draft.absolute()),
            output=folder,
            providers=providers,
            trust=trust,
            on_stage=on_stage,
            on_progress=on_progress,
        )
        budgets = derive_budgets([read_measured(folder)], with_latency=with_latency)
        draft.write_text(write_card(card, budgets), encoding="utf-8")
        load_card(draft.absolute())
    written = [output]
    if ci is not None:
        artifact.write_bytes(ci, write_workflow(trust=card.factory is not None).encode())
        written.append(ci)
    return InitRecord(
        card=card.name,
        folder=str(folder),
        before=Budgets(),
        budgets=budgets,
        written=tuple(map(str, written)),
    )


def update_budgets(
    card: str,
    *,
    out: Path = Path("out"),
    providers: Sequence[str] = ("cpu",),
    with_latency: bool = False,
    trust: bool = False,
    force: bool = False,
    on_stage: Callable[[StageRun], None] = lambda stage: None,
    on_progress: Progress = ignore_progress,
) -> InitRecord:
    """Measure the budgets of a card again; with ``force`` write them into it, else only say what they would be.

    A budget on time is measured again where the card has one, or ``with_latency``.

    Raises:
        MbdeployError: whatever a stage refuses. CardError: budgets that are not written one a line.
    """
    known = load_card(card)
    place, folder = Path(known.path), out / known.name
    run(known.path, output=folder, providers=providers, trust=trust, on_stage=on_stage, on_progress=on_progress)
    timed = with_latency or known.budgets.latency_ratio is not None
    budgets = derive_budgets([read_measured(folder)], with_latency=timed)
    text = replace_lines(place.read_text(encoding="utf-8"), budgets)
    with tempfile.TemporaryDirectory(prefix="mbdeploy-init-") as scratch:
        check_text(text, budgets, place, Path(scratch))
    if force:
        artifact.write_bytes(place, text.encode())
    return InitRecord(
        card=known.name,
        folder=str(folder),
        before=known.budgets,
        budgets=budgets,
        written=(str(place),) if force else (),
    )


def _describe(
    source: str,
    name: str | None,
    preprocess: str | None,
    shape: tuple[int, int, int] | None,
    quantization: Quantization,
    output: Path | None,
) -> ModelCard:
    """The card of a factory, or of an ONNX file, which says its shape and may say its preprocessing."""
    own = None
    if _is_file(source):
        model = model_file.load_model(Path(source))
        own, shape = model_file.read_preprocess(model), shape or model_file.read_signature(model, source).image_shape
    elif not _FACTORY.fullmatch(source):
        raise UsageError(
            where=source,
            expected='a factory "pkg.mod:fn" that returns a torch module, or an ONNX file',
            found="another word",
            todo="name one",
        )
    if own is None and shape is None and not (preprocess or "").endswith(".toml"):
        raise UsageError(
            where=source,
            expected="the size of the network's input",
            found="no input shape",
            todo="give --input-shape, such as 3,224,224",
        )
    channels, size, width = shape or (3, 0, 0)
    if own is None or preprocess is not None:
        own = resolve_preprocess(preprocess, size=size, channels=channels, width=width)
    name = name or (Path(source).stem if _is_file(source) else source.partition(":")[2])
    folder = (output or Path("models") / f"{name}.toml").parent
    return ModelCard(
        name=name,
        summary=f"made by {Path(source).name}" if _is_file(source) else f"made by {source}",
        factory=None if _is_file(source) else source,
        weights=_find_weights(source, folder),
        preprocess=own,
        quantization=msgspec.structs.replace(quantization, calibration=_name_data(quantization.calibration, folder)),
    )


def _name_data(source: str, folder: Path) -> str:
    """The word for images that lie here in a card in ``folder``: a manifest's name, a whole path, or one from there."""
    found = find_data(source, Path())
    if is_manifest(found) or Path(found).is_absolute():
        return found
    return name_path(_lead_to(found, folder))


def _lead_to(path: str, folder: Path) -> str:
    """The path as a card in ``folder`` says it."""
    return Path(os.path.relpath(path, folder)).as_posix()


def _is_file(source: str) -> bool:
    return source.endswith(".onnx")


def _find_weights(source: str, folder: Path) -> Weights:
    if not _is_file(source):
        return Weights(seed=0)
    return Weights(file=_lead_to(source, folder), sha256=model_file.digest_model(Path(source)))


def _refuse_existing(place: Path, *, force: bool) -> None:
    if place.exists() and not force:
        raise OutputError(
            where=place,
            expected="a file that is not there yet",
            found="one",
            todo="choose another place, or give --force to overwrite it",
        )
