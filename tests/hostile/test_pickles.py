"""No weights file runs code: not one payload in any container, loaded as weights or named as a program."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hostile_corpus.judging import run_command
from hostile_corpus.pickles import CONTAINERS, make_payloads, write_payload

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
PAYLOADS = make_payloads()
CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = {{ alpha = 0.25 }}
weights = {{ file = "{file}", sha256 = "{sha256}" }}
preprocess = {{ size = 32 }}
"""


def lay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, payload: str) -> tuple[Path, Path]:
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = write_payload(folder, container, PAYLOADS[payload])
    (folder / "payload.py").write_text("open('owned', 'w')")
    card = folder / "tiny.toml"
    card.write_text(CARD.format(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    return folder, card


def test_there_are_twenty_payloads_and_five_containers() -> None:
    assert len(PAYLOADS) >= 20
    assert len(CONTAINERS) == 5


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_loading_weights_refuses_it_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, payload: str
) -> None:
    from mbdeploy.card import load_card
    from mbdeploy.errors import MbdeployError
    from mbdeploy.nets.weights import load_network

    folder, card = lay_out(tmp_path, monkeypatch, container, payload)
    with pytest.raises(MbdeployError) as caught:
        load_network(load_card(card))
    assert "\n" not in str(caught.value)
    assert not (folder / "owned").exists() and not (tmp_path / "owned").exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_a_program_file_runs_only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, payload: str) -> None:
    folder, _ = lay_out(tmp_path, monkeypatch, "pt2", payload)
    ending = run_command(["export", "program.pt2", "-o", "out.onnx"], folder)
    assert ending.wrong == (), ending
    assert ending.code == 2
    assert "--trust" in ending.stderr
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("container", "payload"),
    [
        pytest.param(
            container, payload, marks=[pytest.mark.sweep] if (container, payload) != ("pt", "os.system") else []
        )
        for container in CONTAINERS
        if container != "pt2"
        for payload in PAYLOADS
    ],
)
def test_export_refuses_it_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, container: str, payload: str
) -> None:
    folder, card = lay_out(tmp_path, monkeypatch, container, payload)
    ending = run_command(["export", str(card), "-o", "out.onnx", "--max-time", "50"], folder)
    assert ending.wrong == (), ending
    assert ending.code == 2
    assert not (folder / "out.onnx").exists()
