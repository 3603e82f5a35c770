"""The network zoo: a table from a net's name to the function that builds it, one architecture a file."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from mbdeploy.errors import CardError

if TYPE_CHECKING:
    from torch import nn

ENTRY_POINTS = "mbdeploy.nets"

ALPHAS = (0.25, 0.5, 0.75, 1.0)  # arXiv:1704.04861, table 6

NETS: dict[str, str] = {
    "alexnet": "mbdeploy.nets.alexnet:alexnet",
    "conv_mobilenet": "mbdeploy.nets.mobilenet_v1:conv_mobilenet",
    "efficientnet": "mbdeploy.nets.efficientnet:efficientnet",
    "espnet": "mbdeploy.nets.espnet:espnet",
    "espnetv2": "mbdeploy.nets.espnetv2:espnetv2",
    "fbnet": "mbdeploy.nets.fbnet:fbnet",
    "ghostnet": "mbdeploy.nets.ghostnet:ghostnet",
    "googlenet": "mbdeploy.nets.googlenet:googlenet",
    "mnasnet_a1": "mbdeploy.nets.mnasnet:mnasnet_a1",
    "mobilenet_v1": "mbdeploy.nets.mobilenet_v1:mobilenet_v1",
    "mobilenet_v2": "mbdeploy.nets.mobilenet_v2:mobilenet_v2",
    "mobilenet_v3": "mbdeploy.nets.mobilenet_v3:mobilenet_v3",
    "resnet50": "mbdeploy.nets.resnet:resnet50",
    "shufflenet_v1": "mbdeploy.nets.shufflenet_v1:shufflenet_v1",
    "shufflenet_v2": "mbdeploy.nets.shufflenet_v2:shufflenet_v2",
    "squeezenet": "mbdeploy.nets.squeezenet:squeezenet",
    "squeezenext": "mbdeploy.nets.squeezenext:squeezenext",
    "vgg16": "mbdeploy.nets.vgg:vgg16",
}


def build_net(name: str, **args: Any) -> nn.Module:
    """Build the network of this name with freshly initialised weights.

    ``name`` is a row of ``NETS``, or an installed entry point of the group ``mbdeploy.nets``, which
    is looked for only when no row has the name. ``args`` are the builder's keywords.

    Raises:
        CardError: no such net, or an argument that its builder does not take (what exists is listed).
    """
    builder = _find_builder(name)
    known = list(inspect.signature(builder).parameters)
    unknown = sorted(set(args) - set(known))
    if unknown:
        raise CardError(
            where=f"net {name}",
            expected=f"arguments among {', '.join(known)}",
            found=", ".join(unknown),
            todo="correct the card's [args]",
        )
    wrong = [key for key, value in args.items() if isinstance(value, float) and not 0 < value < math.inf]
    try:
        if wrong:
            raise ValueError(f"{wrong[0]} must be a number above 0")
        return builder(**args)
    except (TypeError, ValueError, RuntimeError) as error:  # torch refuses a size below 0 by the last
        raise CardError(
            where=f"net {name}",
            expected="arguments that its builder accepts",
            found=f"{args} ({error})",
            todo="correct the card's [args]",
        ) from error


def list_alphas(name: str) -> tuple[float, ...]:
    """The width multipliers that the authors of this net publish: ``ALPHAS`` of its module.

    A net that takes any ``alpha`` and publishes none has the four of MobileNets; one without ``alpha`` has none.

    Raises:
        CardError: no such net.
    """
    builder = _find_builder(name)
    if "alpha" not in inspect.signature(builder).parameters:
        return ()
    published: tuple[float, ...] = getattr(import_module(builder.__module__), "ALPHAS", ALPHAS)
    return published


def _find_builder(name: str) -> Callable[..., nn.Module]:
    if name in NETS:
        module, _, function = NETS[name].partition(":")
        builder: Callable[..., nn.Module] = getattr(import_module(module), function)
        return builder
    plugged = {point.name: point for point in metadata.entry_points(group=ENTRY_POINTS)}
    if name in plugged:
        loaded: Callable[..., nn.Module] = plugged[name].load()
        return loaded
    raise CardError(
        where=f"net {name}",
        expected=f"one of {', '.join(sorted([*NETS, *plugged]))}",
        found="no such net",
        todo="correct the card's `net`",
    )
