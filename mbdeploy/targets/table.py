"""The table of targets: which module opens ``local``, ``qemu:haswell`` and those that plug-ins bring."""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import entry_points

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.job import Target
from mbdeploy.targets.providers import PROVIDERS, Provider

#: Name -> "module:function"; the function gets what follows the colon in ``NAME[:ARGUMENT]``, or "".
TARGETS = {
    "local": "mbdeploy.targets.local:open_local",
    "qemu": "mbdeploy.targets.qemu:open_qemu",
}
_GROUP = "mbdeploy.targets"


def open_target(provider: Provider) -> Target:
    """The target of a provider, ready to run jobs.

    Rules: 1. our own table first, then entry points of the group ``mbdeploy.targets``. 2. A provider
    word that stands for an architecture (``arm``) is not answered by another one.

    Raises:
        UsageError: no such target, or an argument it does not know.
        UnavailableError: it is not here.
    """
    name, _, argument = provider.target.partition(":")
    place = TARGETS.get(name) or next((point.value for point in entry_points(group=_GROUP, name=name)), None)
    if place is None:
        raise UsageError(
            where=provider.word,
            expected=f"a target ({', '.join(TARGETS)}) after the @",
            found=f"{name!r}",
            todo="choose one of these, as in cpu@qemu:haswell",
        )
    row = PROVIDERS.get(provider.name)
    if name == "local" and row is not None and row.machine not in ("", _machine()):
        raise UnavailableError(
            where=provider.word,
            expected=f"{row.needs}",
            found=f"this machine, which is {_machine()}",
            todo=f"run mbdeploy on an {row.machine} machine",
        )
    module, _, function = place.partition(":")
    opened: Target = getattr(importlib.import_module(module), function)(argument)
    return opened


def _machine() -> str:
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
