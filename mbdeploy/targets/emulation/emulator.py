"""qemu's user emulator as a program: where it is, its version, and the CPUs that it can be."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mbdeploy.errors import UnavailableError
from mbdeploy.watch import child_environment

#: Where in a prefix the emulator lies that was unpacked there.
OWN = "qemu"


def find_emulator(programs: Sequence[str], prefix: Path | None = None) -> tuple[str, ...] | None:
    """The command of the first of ``programs`` on the search path, else of one unpacked in the prefix, else None."""
    found = next((path for name in programs if (path := shutil.which(name))), None)
    if found is not None:
        return (found,)
    return _find_own(prefix / OWN, programs) if prefix is not None else None


def _find_own(root: Path, programs: Sequence[str]) -> tuple[str, ...] | None:
    program = next((path for name in programs if (path := root / "usr" / "bin" / name).is_file()), None)
    if program is None:
        return None
    # It was unpacked with its own libraries: started by their loader, it needs none of this machine's.
    folders = [folder for part in ("lib", "usr/lib") for folder in sorted((root / part).glob("*-linux-gnu"))]
    loader = next((path for folder in folders for path in sorted(folder.glob("ld-linux*.so.*"))), None)
    if loader is None:  # it is linked statically
        return (str(program),)
    return (str(loader), "--library-path", ":".join(map(str, folders)), str(program))


def read_version(emulator: Sequence[str]) -> str:
    """As in ``7.2.22``."""
    # It says: qemu-x86_64 version 7.2.22 (Debian 1:7.2+dfsg-7), and a copyright.
    words = _ask(emulator, "--version").split()
    if len(words) < 3:
        raise _refuse(emulator, "one that does not say its version")
    return words[2]


def list_cpus(emulator: Sequence[str]) -> list[str]:
    """Every CPU model, in qemu's own spelling."""
    # Lines are "x86 Haswell-v4   Intel Core …" (older ones) or "  cortex-a53"; other lists follow an empty line.
    models: list[str] = []
    for line in _ask(emulator, "-cpu", "help").splitlines():  # (it says so with exit status 1)
        words = line.split()
        if not words and models:
            break
        if words and (line[0] == " " or words[0] == "x86"):
            models += (words[1:] if words[0] == "x86" else words)[:1]
    return models


def _ask(emulator: Sequence[str], *arguments: str) -> str:
    try:
        answer = subprocess.run(
            [*emulator, *arguments], capture_output=True, text=True, timeout=20, check=False, env=child_environment()
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _refuse(emulator, str(error)) from error
    return answer.stdout


def _refuse(emulator: Sequence[str], found: str) -> UnavailableError:
    return UnavailableError(
        where=emulator[-1], expected="an emulator that starts", found=found, todo="reinstall qemu-user"
    )
