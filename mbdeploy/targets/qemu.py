"""Another CPU by qemu's user emulation, x86 or ARM: parity there, never time.

A CPU with VNNI answers as an ARM CPU does and does not saturate; ``qemu:haswell`` is an AVX2 CPU
without it, on which int8 products are clipped. The same agent runs under the same Python, or for ARM
under the one of the emulation prefix (``targets/emulation``).
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import msgspec

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.emulation.emulator import find_emulator, list_cpus, read_version
from mbdeploy.targets.emulation.prefix import (
    CPUS,
    PROGRAMS,
    SETUP,
    X86_PROGRAMS,
    compose_command,
    find_onnxruntime,
    find_prefix,
    find_view,
    read_manifest,
)
from mbdeploy.targets.process import ProcessTarget


class Emulator(msgspec.Struct, frozen=True, kw_only=True):
    """An architecture that can be emulated: the programs that do it, CPUs known without asking them (the first is
    meant without a name), and on which machines (none: on any, with the prefix; else under mbdeploy's own Python).
    """

    programs: tuple[str, ...]
    known: tuple[str, ...]
    machine: str = ""


_EMULATORS = {
    "x86_64": Emulator(programs=X86_PROGRAMS, known=("haswell",), machine="x86_64"),
    "aarch64": Emulator(programs=PROGRAMS, known=CPUS),
}


def open_qemu(argument: str) -> ProcessTarget:
    """The target ``qemu[:ARCHITECTURE][:CPU]``, where CPU is any model that this qemu knows, in whatever case.

    Without an architecture it is the one that has such a CPU, this machine's first.

    Raises:
        UnavailableError: no qemu on the search path or in the prefix, or nothing it could emulate here.
        UsageError: a CPU model that this qemu does not know.
    """
    architecture, _, cpu = argument.partition(":")
    if architecture not in _EMULATORS:
        architecture, cpu = _find_architecture(argument), argument
    row = _EMULATORS[architecture]
    if row.machine not in ("", platform.machine()):
        raise UnavailableError(
            where=f"qemu:{argument}",
            expected=f"a Python for {architecture}",
            found=f"one for {platform.machine()}",
            todo="run mbdeploy on such a machine",
        )
    open_it = _open_native if row.machine else _open_prefix
    return open_it(row, cpu or row.known[0])


def _find_architecture(cpu: str) -> str:
    """The architecture that has this CPU; for one that none has, that of the nearest names, which it will be told."""
    native = platform.machine() if platform.machine() in _EMULATORS else "x86_64"
    if cpu == "":
        return native
    known = {name: _list_known(name) for name in sorted(_EMULATORS, key=lambda name: name != native)}
    exact = (name for name, models in known.items() if cpu.lower() in models)
    near = (name for name, models in known.items() if any(cpu.lower()[:4] in model for model in models))
    return next(exact, None) or next(near, native)


def _list_known(architecture: str) -> list[str]:
    row = _EMULATORS[architecture]
    emulator = find_emulator(row.programs, find_prefix())
    models = list_cpus(emulator) if emulator is not None else row.known
    return [model.lower() for model in models]


def _open_native(row: Emulator, cpu: str) -> ProcessTarget:
    emulator = find_emulator(row.programs, find_prefix())
    if emulator is None:
        raise UnavailableError(
            where=f"qemu:{cpu}",
            expected=f"{row.programs[0]} on the search path, or where `{SETUP}` unpacks it",
            found="none",
            todo=f"`{SETUP}`, or `apt-get install qemu-user`, or what your system calls qemu's user emulation",
        )
    found = _find_cpu(emulator, cpu)
    return _describe(emulator, found, (*emulator, "-cpu", found, sys.executable))


def _open_prefix(row: Emulator, cpu: str) -> ProcessTarget:
    folder = find_prefix()
    emulator = find_emulator(row.programs, folder)
    if read_manifest(folder) is None or emulator is None:
        raise UnavailableError(
            where=f"qemu:{cpu}",
            expected=f"an emulated Python for aarch64 with ONNX Runtime {find_onnxruntime()}",
            found=f"none in {folder}",
            todo=f"build it with `{SETUP}`",
        )
    found = _find_cpu(emulator, cpu)
    view = find_view(folder, read_version(emulator), found)
    if not view.is_dir():
        raise UnavailableError(
            where=f"qemu:{cpu}",
            expected=f"what a {found} sees, for qemu {read_version(emulator)}",
            found=f"none in {folder}",
            todo=f"add it with `{SETUP} --cpu {found}`",
        )
    return _describe(emulator, found, compose_command(emulator, found, folder, view))


def _describe(emulator: tuple[str, ...], cpu: str, command: tuple[str, ...]) -> ProcessTarget:
    program = Path(emulator[-1]).name.removesuffix("-static")
    return ProcessTarget(
        name=f"qemu:{cpu.lower()}",
        command=command,
        emulator=f"{program} version {read_version(emulator)} -cpu {cpu}",
    )


def _find_cpu(emulator: tuple[str, ...], wanted: str) -> str:
    """qemu's own spelling of a CPU model."""
    models = list_cpus(emulator)
    found = next((model for model in models if model.lower() == wanted.lower()), None)
    if found is None:
        near = [model for model in models if wanted.lower()[:4] in model.lower()] or models
        raise UsageError(
            where=f"qemu:{wanted}",
            expected=f"a CPU that this qemu can be ({', '.join(near[:6])} …)",
            found=repr(wanted),
            todo=f"see `{emulator[-1]} -cpu help`",
        )
    return found
