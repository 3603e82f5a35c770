"""Which file a word on the command line means, and where a stage's result goes if nobody says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbdeploy.card import load_card
from mbdeploy.errors import ModelError, UsageError

OUT = Path("out")
#: Names of our own layout: their successors lie beside them under a plain name.
_OWN_STEMS = ("fp32", "simplified")


def name_folder(word: str) -> Path:
    """Where the results of a card (name or file), a factory or a program file lie: ``out/MODEL``."""
    if ":" in word and "/" not in word:
        return OUT / word.rpartition(":")[2]
    if Path(word).suffix in (".pt2", ".onnx"):
        return OUT / Path(word).stem
    return OUT / load_card(word).name


def find_folder(word: str) -> Path:
    """The folder that ``word`` is, or ``out/MODEL`` if it is a card."""
    return Path(word) if Path(word).is_dir() or "/" in word else name_folder(word)


def find_result(word: str) -> Path:
    """The file or folder that ``word`` is, or ``out/MODEL`` if it is a card."""
    return Path(word) if Path(word).is_file() or Path(word).suffix == ".json" else find_folder(word)


def name_page(folders: Sequence[Path]) -> Path:
    """Where a report's page goes if nobody says: into the folder it is on, or here if it is on several."""
    return folders[0] / "report.html" if len(folders) == 1 else Path("report.html")


def is_card(word: str) -> bool:
    """Whether ``word`` stands for a model card (its name or a TOML file) and not for a model file."""
    return Path(word).suffix == ".toml" or not (Path(word).suffix == ".onnx" or "/" in word or Path(word).is_file())


def is_bundle(words: Sequence[str]) -> bool:
    """Whether the words are one archive of ``mbdeploy bundle``.

    Raises:
        UsageError: an archive among other words.
    """
    found = [word for word in words if word.endswith((".tar.gz", ".zip"))]
    if found and len(words) > 1:
        raise UsageError(where=found[0], expected="a bundle alone", found="other models", todo="verify them apart")
    return bool(found)


def find_model(word: str, file: str) -> Path:
    """The model file that ``word`` is, or ``out/MODEL/FILE`` if it is a card.

    Raises:
        CardError: neither a file nor a card.
        ModelError: a card whose file has not been made yet.
    """
    if not is_card(word):
        return Path(word)
    path = name_folder(word) / file
    if not path.is_file():
        raise ModelError(
            where=path,
            expected=f"the {path.stem} file of card {word}",
            found="no such file",
            todo=f"make it with `mbdeploy run {word}`, or give the path of an .onnx file",
        )
    return path


def find_models(
    words: Sequence[str], files: Sequence[str] = ("fp32.onnx", "simplified.onnx", "int8.onnx")
) -> list[Path]:
    """The model files that the words are; a card stands for these files of its folder."""
    return [path for word in words for path in _expand(word, files)]


def read_budgets(words: Sequence[str]) -> dict[str, Any]:
    """Whose budgets hold, as a keyword of ``verify``: the first card's among the words; nothing if there is none."""
    return next(({"budgets": word} for word in words if is_card(word)), {})


def name_result(words: Sequence[str], name: str) -> Path | None:
    """Where the report of the first card among the words looks for this result; None if there is no card."""
    return next((name_folder(word) / "results" / f"{name}.json" for word in words if is_card(word)), None)


def name_output(model: Path, stage: str) -> Path:
    """Where ``stage`` writes if nobody says: ``NAME.STAGE.onnx`` beside the model, ``STAGE.onnx`` beside our own."""
    stem = model.name.removesuffix(".onnx").removesuffix(".simplified")
    return model.with_name(f"{stage}.onnx" if stem in _OWN_STEMS else f"{stem}.{stage}.onnx")


def read_quantization(word: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords of ``quantize``: those ``given``, and what a card says for others; nothing more for a model file.

    Raises:
        DataError: the card names images that are not there.
    """
    from mbdeploy.data import settle_quantization

    return {**given, **settle_quantization(load_card(word), given)} if is_card(word) else dict(given)


def _expand(word: str, files: Sequence[str]) -> list[Path]:
    return [find_model(word, file) for file in files] if is_card(word) else [Path(word)]
