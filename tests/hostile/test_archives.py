"""No golden file, calibration file or bundle packed to deceive fills the memory, leaves its folder or ends a command in
anything but one line and exit code 2."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hostile_corpus.archives import BUNDLES, GOLDENS, ITEMS, LIMITS, bundle_files, tar_of
from hostile_corpus.building import Item, save, sound_model
from hostile_corpus.datasets import zip_of
from hostile_corpus.judging import run_command

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]
TIME = ("--max-time", "20")
COMMANDS = {
    "golden.npz": ["verify", "model.onnx"],
    "calibration.npz": ["quantize", "model.onnx", "--ranges", "calibration.npz", "--fast", "-o", "out.onnx"],
    "bundle.zip": ["verify", "bundle.zip"],
    "bundle.tar.gz": ["verify", "bundle.tar.gz"],
}
#: What one command may need above what it had: its limit, twice while it is read, and the archive's directory.
_MOST_MIB = 400


def lay_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "archives"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def choose_tier(item: Item) -> object:
    """Quantizing starts a child, which takes seconds: calibration files wait for the night, as does what takes long to
    make."""
    late = item.command == "calibration.npz" or any(word in item.name for word in ("900,000", "5,000", "a bomb.tar"))
    return pytest.param(item, marks=[pytest.mark.sweep] if late else [], id=item.name)


def test_the_corpus_has_its_size_and_each_name_once() -> None:
    assert len(BUNDLES) >= 15 and len(GOLDENS) >= 15
    assert len({item.name for item in ITEMS}) == len(ITEMS)


@pytest.mark.parametrize("item", [choose_tier(item) for item in ITEMS])
def test_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, item: Item) -> None:
    folder = lay_out(tmp_path, monkeypatch)
    item.make(folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ending = run_command([*COMMANDS[item.command], *LIMITS, *TIME], folder)
    assert ending.wrong == (), ending
    assert ending.code == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < _MOST_MIB << 10
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("name", ["bundle.zip", "bundle.tar.gz"])
def test_the_sound_bundle_is_opened_and_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    folder = lay_out(tmp_path, monkeypatch)
    (folder / name).write_bytes((zip_of if name.endswith("zip") else tar_of)(bundle_files()))
    ending = run_command([*COMMANDS[name], *LIMITS, *TIME], folder)
    assert ending.wrong == (), ending
    assert ending.code == 1  # its golden outputs are made up


#: What that program makes no Python text of, and what it takes 20 s to refuse, for it has no eye on the directory.
WORDLESS = ("texts that fill the memory", "letters that do not exist")
SLOW = ("a directory of 900,000",)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.sweep] if name in SLOW else []) for name in GOLDENS if name not in WORDLESS],
)
def test_a_bundle_s_own_program_refuses_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from mbdeploy.targets import bundle_verify

    monkeypatch.setattr(bundle_verify, "MOST_BYTES", 16 << 20)
    path = tmp_path / "golden.npz"
    path.write_bytes(GOLDENS[name]())
    with pytest.raises(bundle_verify.BundleError) as caught:
        bundle_verify.read_golden(path)
    assert caught.value.code == 2
    assert "\n" not in str(caught.value)


def test_a_fifo_in_place_of_golden_outputs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    folder = lay_out(tmp_path, monkeypatch)
    save(sound_model(), folder)
    os.mkfifo(folder / "pipe.npz")
    for words in (["verify", "model.onnx", "--golden", "pipe.npz"], ["bench", "model.onnx", "--inputs", "pipe.npz"]):
        ending = run_command([*words, *TIME], folder)
        assert (ending.code, ending.wrong) == (2, ()), ending
