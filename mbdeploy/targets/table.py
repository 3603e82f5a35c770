"""The table of targets: which module opens ``local``, ``qemu:haswell`` and those that plug-ins bring."""

from __future__ import annotations

import importlib
import platform
from importlib.metadata import entry_points

import msgspec

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.job import Target
from mbdeploy.targets.providers import PROVIDERS, Provider, ProviderRow

#: Name -> "module:function"; the function gets what follows the colon in ``NAME[:ARGUMENT]``, or "".
TARGETS = {
    "local": "mbdeploy.targets.local:open_local",
    "qemu": "mbdeploy.targets.qemu:open_qemu",
    "docker": "mbdeploy.targets.docker:open_docker",
    "ssh": "mbdeploy.targets.ssh:open_ssh",
}
_GROUP = "mbdeploy.targets"


def open_target(provider: Provider) -> Target:
    """The target of a provider, ready to run jobs.

    Rules: 1. our own table first, then entry points of the group ``mbdeploy.targets``. 2. A provider
    word that stands for an architecture (``arm``) is not answered by another one. 3. Without an @ it is
    this machine if that is one, else its emulation. 4. What simulates a device here is emulated.

    Raises:
        UsageError: no such target, or an argument it does not know.
        UnavailableError: it is not here.
    """
    name, _, argument = provider.target.partition(":")
    row = PROVIDERS.get(provider.name)
    if row is not None and row.machine:
        name, argument = _find_machine(provider, row, name, argument)
    place = TARGETS.get(name) or next((point.value for point in entry_points(group=_GROUP, name=name)), None)
    if place is None:
        raise UsageError(
            where=provider.word,
            expected=f"a target ({', '.join(TARGETS)}) after the @",
            found=f"{name!r}",
            todo="choose one of these, as in cpu@qemu:haswell",
        )
    module, _, function = place.partition(":")
    opened = getattr(importlib.import_module(module), function)(argument)
    if row is not None and row.simulated_on == _machine() and name == "local":
        opened = msgspec.structs.replace(opened, emulator=f"{row.ep}, simulated")
    if row is not None and row.machine and name == "ssh":  # only the board can say what it is
        opened = msgspec.structs.replace(opened, machine=row.machine)
    target: Target = opened
    return target


def find_device(provider: Provider) -> str:
    """The board that a provider is on, as a name of small letters, digits and ``_``; empty where there is none.

    A target of a plug-in that only one worker at a time may talk to has such a name as its attribute ``device``.

    Raises:
        As :func:`open_target`.
    """
    return str(getattr(open_target(provider), "device", ""))


def _find_machine(provider: Provider, row: ProviderRow, name: str, argument: str) -> tuple[str, str]:
    """The target, and its argument, for a word that stands for an architecture."""
    if name == "local" and row.machine != _machine():
        if "@" not in provider.word:
            return "qemu", row.machine
        raise UnavailableError(
            where=provider.word,
            expected=f"{row.needs}",
            found=f"this machine, which is {_machine()}",
            todo=f"run mbdeploy on an {row.machine} machine, or emulate one with {provider.name}@qemu",
        )
    if name == "qemu" and argument.partition(":")[0] != row.machine:
        return name, f"{row.machine}:{argument}"
    return name, argument


def _machine() -> str:
    return {"arm64": "aarch64", "AMD64": "x86_64"}.get(platform.machine(), platform.machine())
