"""Another CPU of this machine's architecture, by qemu's user emulation: parity there, never time.

A CPU with VNNI answers as an ARM CPU does and does not saturate; ``qemu:haswell`` is an AVX2 CPU
without it, on which int8 products are clipped. The same agent runs under the same Python.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets.process import ProcessTarget
from mbdeploy.watch import child_environment

# One row an architecture that can be emulated: the emulators that serve it, and the CPU meant without a name.
# An architecture other than this machine's (arm) also needs a Python and a runtime built for it.
_EMULATORS = {"x86_64": (("qemu-x86_64", "qemu-x86_64-static"), "haswell")}


def open_qemu(argument: str) -> ProcessTarget:
    """The target ``qemu:CPU``, where CPU is any model that this qemu knows, in whatever case.

    Raises:
        UnavailableError: no qemu on the search path, or nothing it could emulate here.
        UsageError: a CPU model that this qemu does not know.
    """
    machine = platform.machine()
    if machine not in _EMULATORS:
        raise UnavailableError(
            where=f"qemu:{argument}",
            expected=f"a Python for one of {', '.join(_EMULATORS)}",
            found=f"one for {machine}",
            todo="run mbdeploy on such a machine",
        )
    programs, default = _EMULATORS[machine]
    program = next((found for name in programs if (found := shutil.which(name))), None)
    if program is None:
        raise UnavailableError(
            where=f"qemu:{argument}",
            expected=f"{programs[0]} on the search path",
            found="none",
            todo="`apt-get install qemu-user`, or what your system calls qemu's user emulation",
        )
    cpu = _find_cpu(program, argument or default)
    return ProcessTarget(
        name=f"qemu:{cpu.lower()}",
        command=(program, "-cpu", cpu, sys.executable),
        emulator=f"{_read_version(program)} -cpu {cpu}",
    )


def _find_cpu(program: str, wanted: str) -> str:
    """qemu's own spelling of a CPU model; its list has lines such as ``x86 Haswell-v4   Intel Core …``."""
    lines = _ask(program, "-cpu", "help").splitlines()  # (it says so with exit status 1)
    models = [line.split()[1] for line in lines if line.startswith("x86 ") and len(line.split()) > 1]
    found = next((model for model in models if model.lower() == wanted.lower()), None)
    if found is None:
        near = [model for model in models if wanted.lower()[:4] in model.lower()] or models
        raise UsageError(
            where=f"qemu:{wanted}",
            expected=f"a CPU that this qemu can be ({', '.join(near[:6])} …)",
            found=repr(wanted),
            todo=f"see `{program} -cpu help`",
        )
    return found


def _read_version(program: str) -> str:
    # It says: qemu-x86_64 version 7.2.22 (Debian 1:7.2+dfsg-7), and a copyright.
    return " ".join(_ask(program, "--version").split()[:3])


def _ask(program: str, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=20, check=False, env=child_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(
            where=program, expected="an emulator that starts", found=str(error), todo="reinstall qemu-user"
        ) from error
    return answer.stdout
