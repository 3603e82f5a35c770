"""What an emulated CPU sees of its machine: /proc/cpuinfo in ARM's form, written from what the CPU itself says.

ONNX Runtime's wheel for aarch64 crashes at import where this file is missing, is in x86 form, or (on some
CPUs) has fewer entries than the system has CPUs; features beyond those of ``-cpu`` end in SIGILL.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.decoding import decode_json
from mbdeploy.targets.emulation.prefix import compose_command
from mbdeploy.targets.emulation.programs import call_program, refuse_step

_GUEST = Path(__file__).with_name("guest.py")
# The kernel's words for the bits of AT_HWCAP and AT_HWCAP2, from bit 0 up: hwcap_str in arch/arm64/kernel/cpuinfo.c.
_HWCAP = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm jscvt fcma lrcpc dcpop sha3 sm3 "
    "sm4 asimddp sha512 sve asimdfhm dit uscat ilrcpc flagm ssbs sb paca pacg"
).split()
_HWCAP2 = (
    "dcpodp sve2 sveaes svepmull svebitperm svesha3 svesm4 flagm2 frint svei8mm svef32mm svef64mm svebf16 i8mm bf16 "
    "dgh rng bti mte ecv afp rpres mte3 sme smei16i64 smef64f64 smei8i32 smef16f32 smeb16f32 smef32f32 smefa64 wfxt"
).split()


class Guest(msgspec.Struct, frozen=True, kw_only=True):
    """What ``guest.py`` prints: the registers of an emulated CPU, and the Python and the glibc on it."""

    machine: str
    python: str
    libc: str
    hwcap: int
    hwcap2: int
    midr: int


def ask_guest(emulator: Sequence[str], cpu: str, root: Path, python: Path) -> Guest:
    """Run ``guest.py`` under a CPU, with the libraries of ``root``.

    Raises:
        UnavailableError: it does not start, or is no aarch64 Python.
    """
    expected = f"a Python for aarch64 that starts as {cpu}"
    todo = "give a whole arm64 root with --sysroot DIR, or another qemu on the search path"
    said, _ = call_program(
        [*emulator, "-cpu", cpu, "-L", str(root), "-U", "LD_LIBRARY_PATH", str(python), "-I", str(_GUEST)],
        expected=expected,
        todo=todo,
        cwd=root,
        wall_s=300.0,
    )
    try:
        guest = decode_json(said, Guest)
    except msgspec.MsgspecError as error:
        raise refuse_step(expected, f"{str(python)!r}, which prints {said[:80]!r}", todo) from error
    if guest.machine != "aarch64":
        raise refuse_step(expected, f"one for {guest.machine}", todo)
    return guest


def write_view(view: Path, root: str, guest: Guest) -> None:
    """Make the folder that a CPU sees before this machine's files; ``root`` is the way to the libraries from there.

    One CPU, whatever this machine has: threads do not care, and the file and the system agree.
    """
    (view / "proc").mkdir(parents=True)
    (view / "proc" / "cpuinfo").write_text(describe_cpu(guest), encoding="ascii")
    system = view / "sys" / "devices" / "system" / "cpu"
    system.mkdir(parents=True)
    for name in ("possible", "present"):
        (system / name).write_text("0\n", encoding="ascii")
    for name in ("lib", "usr"):
        (view / name).symlink_to(f"{root}/{name}")


def describe_cpu(guest: Guest) -> str:
    """``/proc/cpuinfo`` of a machine with this one CPU, as Linux on arm64 writes it."""
    features = [word for bit, word in enumerate(_HWCAP) if guest.hwcap >> bit & 1]
    features += [word for bit, word in enumerate(_HWCAP2) if guest.hwcap2 >> bit & 1]
    return (
        "processor\t: 0\n"
        "BogoMIPS\t: 100.00\n"
        f"Features\t: {' '.join(features)}\n"
        f"CPU implementer\t: 0x{guest.midr >> 24 & 0xFF:02x}\n"
        "CPU architecture: 8\n"
        f"CPU variant\t: 0x{guest.midr >> 20 & 0xF:x}\n"
        f"CPU part\t: 0x{guest.midr >> 4 & 0xFFF:03x}\n"
        f"CPU revision\t: {guest.midr & 0xF}\n\n"
    )


def check_runtime(emulator: Sequence[str], cpu: str, folder: Path, view: Path) -> None:
    """See that numpy and ONNX Runtime load on this CPU; the first time also compiles their Python files."""
    call_program(
        [*compose_command(emulator, cpu, folder, view), "-c", "import numpy, onnxruntime"],
        expected=f"ONNX Runtime that loads on an emulated {cpu}",
        todo="leave this CPU out (--cpu names those wanted), or use another qemu or another version of ONNX Runtime",
        cwd=folder,
        wall_s=600.0,
    )
