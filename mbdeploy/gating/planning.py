"""The items of a check on many workers: what is asked of whom, and what decides each answer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.card import ModelCard
from mbdeploy.data import open_dataset
from mbdeploy.executing import Work
from mbdeploy.executing.worker import read_versions
from mbdeploy.gating.jobs import digest_card
from mbdeploy.gating.versions import find_version
from mbdeploy.model_file import digest_model
from mbdeploy.stages import export

_JOBS = "mbdeploy.gating.jobs"


class Shared(msgspec.Struct, frozen=True, kw_only=True):
    """What all items of a check have in common.

    ``real`` and ``emulated`` are the providers, ``boards`` the names of the boards that some of them are on.
    ``options`` are threads, min_duration, seed, allow_fallback and require_placement. ``device`` is what answers depend
    on beside the files: the CPU here, or the cluster by its address.
    """

    output: Path
    real: tuple[str, ...]
    emulated: tuple[str, ...]
    boards: Mapping[str, str]
    baseline: Path | None
    tolerance: float
    ignore: tuple[str, ...]
    options: Mapping[str, Any]
    trust: bool
    device: tuple[str, ...]

    def locate(self, card: ModelCard) -> Path:
        """The card's folder."""
        return self.output / card.name

    def find_other(self, card: ModelCard) -> Path | None:
        """The other version's INT8 file, if there is one."""
        return None if self.baseline is None else find_version(self.baseline, card.name)


def plan_make(shared: Shared, card: ModelCard) -> Work:
    """The item that makes the files of a card, and judges them on providers that are no boards.

    Raises:
        MbdeployError: what the card names is not there, or not allowed.
    """
    words = [word for word in (*shared.real, *shared.emulated) if word not in shared.boards]
    told = {"ignore": list(shared.ignore), "trust": shared.trust}
    images = open_dataset(card.quantization.calibration, split="calibrate", card_dir=Path(card.path).parent)
    made_from = {
        "export": export.plan(card.path, exporter="dynamo", opset=None, trust=shared.trust).key,
        "calibration": images.digest(),
        "tools": artifact.read_tools("torch", "onnxscript", "onnxsim", "onnx-ir"),
    }
    return _plan(shared, card, "make_card", words, {}, told, made_from)


def plan_judge(shared: Shared, card: ModelCard, word: str, files: Mapping[str, str]) -> Work:
    """The item that judges a card's files on a board."""
    return _plan(shared, card, "judge_card", [word], files, {}, {})


def plan_time(shared: Shared, card: ModelCard, word: str, files: Mapping[str, str], run: str) -> Work:
    """The item that takes times on a provider; they count for this ``run`` alone."""
    told = {"tolerance": shared.tolerance}
    return _plan(shared, card, "time_card", [word], files, told, {"run": run}, exclusive=True)


def _plan(
    shared: Shared,
    card: ModelCard,
    function: str,
    words: list[str],
    files: Mapping[str, str],
    told: dict[str, Any],
    decided: dict[str, Any],
    *,
    exclusive: bool = False,
) -> Work:
    other = shared.find_other(card)
    both = {
        **told,
        "digest": digest_card(card),
        "files": dict(files),
        "words": words,
        "emulated": [word for word in words if word in shared.emulated],
        "options": dict(shared.options),
    }
    return Work(
        name=f"{card.name} on {', '.join(words)}" if words else card.name,
        function=f"{_JOBS}:{function}",
        request={
            **both,
            "card": str(Path(card.path).absolute()),
            "folder": str(shared.locate(card)),
            "other": None if other is None else str(other),
        },
        identity={
            **both,
            **decided,
            "folder": str(shared.locate(card)),
            "other": None if other is None else digest_model(other),
            "device": list(shared.device),
            "versions": read_versions(),
        },
        device=shared.boards.get(words[0], "") if function != "make_card" else "",
        exclusive=exclusive,
    )
