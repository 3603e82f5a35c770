"""What a person believes: photographs, and the classes that two models see in them, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy import data, model_file
from mbdeploy.card import Labels
from mbdeploy.errors import ModelError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.stages.tables import Table
from mbdeploy.targets import Job, Session, open_target, parse_provider


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """A class and the probability (softmax, 0..1) that a model gives it."""

    label: str
    probability: float


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One photograph and, for each model, its best guesses (best first)."""

    photo: str
    guesses: tuple[tuple[Guess, ...], ...]


def classify_photos(
    models: Sequence[Path],
    *,
    photos: str = "photos",
    split: str | None = "show",
    top: int = 3,
    threads: int = 1,
    on_progress: Progress = ignore_progress,
) -> list[Shown]:
    """Run every photograph of a data set through every model and name the ``top`` classes each one sees.

    The models are classifiers that mbdeploy exported: preprocessing and class names are in the files.

    Raises:
        ModelError: a file without preprocessing. DataError, UnavailableError: no photographs.
    """
    first = model_file.load_model(models[0])
    preprocess = model_file.read_preprocess(first)
    if preprocess is None:
        raise ModelError(
            where=models[0],
            expected="preprocessing in the file",
            found="a file that mbdeploy did not export",
            todo="show a card's own files",
        )
    dataset = data.open_dataset(photos, split=split)
    provider = parse_provider("cpu")
    sessions = tuple(Session(model=model, provider=provider.ep, threads=threads) for model in models)
    job = Job(kind="infer", sessions=sessions, inputs=data.load_arrays(dataset, preprocess), batch_size=1)
    answer = open_target(provider).run(job, on_progress)
    names = _read_names(model_file.read_metadata(first))
    tops = [
        [_rank(logits, names, top) for logits in _read_logits(model, ran.outputs)]
        for model, ran in zip(models, answer.sessions, strict=True)
    ]
    return [
        Shown(photo=sample.name, guesses=tuple(model[index] for model in tops))
        for index, sample in enumerate(dataset.samples)
    ]


def tabulate_photos(shown: Sequence[Shown], models: Sequence[str]) -> Table:
    """One block of rows a photograph, one column a model."""
    rows: list[tuple[str, ...]] = []
    for one in shown:
        for rank, guesses in enumerate(zip(*one.guesses, strict=True)):
            cells = (f"{100 * guess.probability:3.0f} %  {guess.label.split(',')[0]}" for guess in guesses)
            rows.append((one.photo if rank == 0 else "", *cells))
    same = sum(len({guesses[0].label for guesses in one.guesses}) == 1 for one in shown)
    notes = (
        f"The same best class in {same} of {len(shown)} photographs. These are to look at;",
        "what is measured is measured on images kept apart from calibration.",
    )
    return Table(
        title="What they see",
        columns=("photograph", *models),
        rows=tuple(rows),
        notes=notes,
        left=tuple(range(len(models) + 1)),
    )


def _read_logits(model: Path, outputs: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    if outputs[0].ndim != 2:
        raise ModelError(
            where=model,
            expected="a classifier, with outputs (n, classes)",
            found=f"outputs {list(outputs[0].shape)}",
            todo="show the card of a classifier",
        )
    return outputs[0]


def _rank(logits: NDArray[np.float32], names: Sequence[str] | None, top: int) -> tuple[Guess, ...]:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:top].tolist()
    return tuple(
        Guess(label=names[index] if names else f"class {index}", probability=float(probabilities[index]))
        for index in best
    )


def _read_names(metadata: dict[str, str]) -> list[str] | None:
    text = metadata.get("mbdeploy.labels")
    return data.load_labels(msgspec.json.decode(text, type=Labels)) if text else None
