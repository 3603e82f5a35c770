"""A model card as commented TOML, for people to go on from."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mbdeploy.card import ModelCard
from mbdeploy.gating.budgets import Budget, write_lines

_HEAD = """\
# A model card: what is declared about one network. Every key is in docs/cards.md; `mbdeploy show FILE` reads it.
name = {name}
summary = {summary}
task = {task}  # or "segment"
{network}
[preprocess]  # how an image becomes an input: (pixel - mean) / std, pixels 0..255
{preprocess}

[quantization]
recipe = {recipe}  # "accurate" takes a minute or so, "portable" seconds for a few dB
calibration = {calibration}  # a folder of images like those it will see is better than the photographs of mbdeploy
num_calibration_samples = {samples}
"""
_FACTORY = """\
factory = {factory}  # a function of yours that returns the torch module, with its weights; runs only with --trust
args = {{}}  # keywords for it

[weights]
seed = {seed}  # the factory runs under this seed, and may load weights of its own
"""
_FILE = """
[weights]
file = {file}  # the network itself, relative to this card
sha256 = {sha256}
"""
_BUDGETS = """
[budgets]  # measured by `mbdeploy init`, then frozen; `mbdeploy init --update-budgets FILE` measures them again
{lines}
"""


def write_card(card: ModelCard, budgets: Sequence[Budget] = ()) -> str:
    """The card's text; without budgets it has no table of them, and the defaults hold."""
    shaped = {
        "size": card.preprocess.size,
        "width": card.preprocess.width,
        "resize": card.preprocess.resize,
        "interpolation": card.preprocess.interpolation,
        "channels": card.preprocess.channels,
        "color": card.preprocess.color,
        "mean": list(card.preprocess.mean),
        "std": list(card.preprocess.std),
    }
    head = _HEAD.format(
        name=json.dumps(card.name),
        summary=json.dumps(card.summary),
        task=json.dumps(card.task),
        network=_describe_network(card),
        preprocess="\n".join(f"{key} = {json.dumps(value)}" for key, value in shaped.items() if value is not None),
        recipe=json.dumps(card.quantization.recipe),
        calibration=json.dumps(card.quantization.calibration),
        samples=card.quantization.num_calibration_samples,
    )
    return head + (_BUDGETS.format(lines="\n".join(write_lines(budgets))) if budgets else "")


def _describe_network(card: ModelCard) -> str:
    if card.is_file:
        return _FILE.format(file=json.dumps(card.weights.file), sha256=json.dumps(card.weights.sha256))
    return _FACTORY.format(factory=json.dumps(card.factory), seed=card.weights.seed)
