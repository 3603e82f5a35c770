"""The emulation prefix: where it lies, what it was made of, and the command that runs its Python as some CPU.

CACHE/qemu/aarch64-onnxruntime-1.31.1/
  manifest.json                   what was fetched, with sha256; written last
  root/                           the arm64 files, or a link to the --sysroot
  venv/                           numpy and onnxruntime beside a link to root's Python
  cpus/7.2.22/cortex-a53/         what that emulator's CPU sees: root, and its own /proc/cpuinfo
  qemu/                           an emulator, where the search path has none
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.artifact import read_tools
from mbdeploy.assets import cache_root
from mbdeploy.decoding import decode_json
from mbdeploy.errors import UnavailableError
from mbdeploy.targets.providers import list_carriers

#: The CPUs that a prefix is built for: in order, small boards, larger ones, servers, and all that qemu can.
CPUS = ("cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1", "a64fx", "max")
PROGRAMS = ("qemu-aarch64", "qemu-aarch64-static")
#: The same package's emulator of x86, which runs this machine's own Python as another x86 CPU.
X86_PROGRAMS = ("qemu-x86_64", "qemu-x86_64-static")
#: The one command that builds what is missing.
SETUP = "mbdeploy targets setup qemu"
_MANIFEST = "manifest.json"


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A package file as it came: the name carries its version."""

    file: str
    sha256: str
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a prefix is. ``home`` is the folder it was built for: its Python does not start anywhere else.

    ``sysroot`` is the folder that was given in place of the distribution's packages.
    """

    home: str
    python: str
    libc: str
    onnxruntime: str
    numpy: str
    sysroot: str | None
    fetched: tuple[Fetched, ...]
    schema_version: int = 1


def find_prefix(onnxruntime: str | None = None, cache: Path | None = None) -> Path:
    """Where the prefix for this version of ONNX Runtime (None: the one here) lies, or would."""
    return (cache or cache_root()) / "qemu" / f"aarch64-onnxruntime-{onnxruntime or find_onnxruntime()}"


def find_onnxruntime() -> str:
    """The version of ONNX Runtime that is installed here, from whichever wheel.

    Raises:
        UnavailableError: none is.
    """
    carriers = list_carriers()
    versions = read_tools(*carriers)
    found = next((versions[name] for name in carriers if versions[name] != "absent"), None)
    if found is None:
        raise UnavailableError(
            where="onnxruntime",
            expected="ONNX Runtime here, whose version the emulated one shall have",
            found="none",
            todo="`pip install onnxruntime`",
        )
    return found


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a whole prefix; None for a folder without one, and for one that was moved."""
    try:
        manifest = decode_json((folder / _MANIFEST).read_bytes(), Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    return manifest if manifest.home == str(folder) else None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest, which makes the prefix whole."""
    (folder / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")


def find_view(folder: Path, version: str, cpu: str) -> Path:
    """Where the view of an emulator's CPU lies: another version of qemu may give the same CPU other instructions."""
    return folder / "cpus" / version / cpu


def compose_command(emulator: Sequence[str], cpu: str, folder: Path, view: Path) -> tuple[str, ...]:
    """The command prefix that runs the prefix's Python as ``cpu``, which sees ``view`` before this machine's files.

    This machine's PYTHONPATH and LD_LIBRARY_PATH name files of another architecture: neither is passed on.
    """
    python = folder / "venv" / "bin" / "python"
    return (*emulator, "-cpu", cpu, "-L", str(view), "-U", "LD_LIBRARY_PATH", str(python), "-I")
