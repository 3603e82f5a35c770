"""Build the emulation prefix, once: emulator, arm64 Python, wheels, and a view for each CPU."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import filelock
import msgspec

from mbdeploy.artifact import read_tools
from mbdeploy.errors import OutputError, UsageError, refuse_output
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.targets.emulation.cpus import ask_guest, check_runtime, write_view
from mbdeploy.targets.emulation.debian import (
    ARCHITECTURES,
    fetch_packages,
    find_python,
    open_apt,
    unpack_packages,
)
from mbdeploy.targets.emulation.emulator import OWN, find_emulator, list_cpus, read_version
from mbdeploy.targets.emulation.prefix import (
    CPUS,
    PROGRAMS,
    X86_PROGRAMS,
    Manifest,
    find_onnxruntime,
    find_prefix,
    find_view,
    read_manifest,
    write_manifest,
)
from mbdeploy.targets.emulation.programs import describe_files, refuse_step
from mbdeploy.targets.emulation.wheels import fetch_wheels, make_environment

_TEMPORARY = ".mbdeploy-tmp"
_WAIT_S = 900.0
# numpy only carries arrays in and out: the newest with wheels for all of these; another Python gets the host's version.
_NUMPY = dict.fromkeys(range(10, 14), "2.2.6")
# Beside what the interpreter depends on, what its extension modules (ctypes, for one) and the two wheels link with.
_PACKAGES = ("{python}-minimal", "lib{python}-stdlib", "libstdc++6")


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix that is there now: its folder, what it is made of, its CPUs, and which of these are new."""

    folder: Path
    manifest: Manifest
    qemu: str
    cpus: tuple[str, ...]
    new: tuple[str, ...]
    size_bytes: int


def build_prefix(
    *,
    cache: Path | None = None,
    sysroot: Path | None = None,
    mirror: str | None = None,
    cpus: Sequence[str] = (),
    on_progress: Progress = ignore_progress,
) -> Built:
    """Build what is missing of the prefix for the ONNX Runtime that is installed here.

    ``cpus`` are qemu's names (none: all of ``CPUS`` that this qemu knows), ``sysroot`` an arm64 root with a
    Python in it, in place of the distribution's packages, ``mirror`` a mirror in place of the host's sources.

    Rules: 1. a whole prefix is not touched; only CPUs that it lacks are added. 2. It is built under another
    name and renamed: a failed step leaves nothing.

    Raises:
        UnavailableError: a step failed; the error carries the cause that the failing program gave.
        UsageError: a CPU that this qemu does not know, a sysroot without a Python.
        OutputError: no room in the cache, or another process is building there.
    """
    folder = find_prefix(cache=cache)
    with _holding(folder.parent):
        manifest = read_manifest(folder)
        if manifest is None or (sysroot is not None and manifest.sysroot != str(sysroot.resolve())):
            manifest = _build(folder, sysroot, mirror, on_progress)
        emulator = find_emulator(PROGRAMS, folder)
        if emulator is None:  # it was on the search path when the prefix was built
            raise refuse_step(
                f"{PROGRAMS[0]} on the search path", "none any more", f"remove {folder}, and run it again"
            )
        version = read_version(emulator)
        known = list_cpus(emulator)
        wanted = _choose_cpus(cpus, known)
        new = [cpu for cpu in wanted if not find_view(folder, version, cpu).is_dir()]
        for index, cpu in enumerate(new):
            on_progress("trying each CPU", index, len(new))
            _add_view(folder, emulator, version, cpu)
    present = tuple(cpu for cpu in known if find_view(folder, version, cpu).is_dir())
    return Built(
        folder=folder,
        manifest=manifest,
        qemu=version,
        cpus=present,
        new=tuple(new),
        size_bytes=sum(path.lstat().st_size for path in folder.rglob("*")),
    )


def _build(folder: Path, sysroot: Path | None, mirror: str | None, on_progress: Progress) -> Manifest:
    place = folder.with_name(f".{folder.name}.{os.getpid()}{_TEMPORARY}")
    steps = 3
    try:
        scratch = place / "scratch"
        scratch.mkdir(parents=True)
        on_progress("fetching Python for arm64", 0, steps)
        debs = []
        if sysroot is None:
            debs = _unpack_root(place, scratch, mirror)
        else:
            (place / "root").symlink_to(sysroot.resolve())
        program = _find_program(place / "root", sysroot)
        on_progress("finding an emulator", 1, steps)
        emulator = find_emulator(PROGRAMS)
        if emulator is None:
            debs += _unpack_emulator(place, scratch)
            emulator = find_emulator(PROGRAMS, place)
        if emulator is None:
            raise refuse_step(f"{PROGRAMS[0]} in the package qemu-user", "none", "put one on the search path")
        guest = ask_guest(emulator, CPUS[0], place / "root", place / "root" / program)
        on_progress("fetching ONNX Runtime for aarch64", 2, steps)
        python, libc = _read_pair(guest.python), _read_pair(guest.libc)
        pins = {"onnxruntime": find_onnxruntime(), "numpy": _NUMPY.get(python[1]) or read_tools("numpy")["numpy"]}
        wheels = fetch_wheels(scratch / "wheels", pins, python, libc)
        fetched = describe_files([*debs, *wheels])
        make_environment(place / "venv", folder / "root" / program, python, wheels)
        manifest = Manifest(
            home=str(folder),
            python=guest.python,
            libc=guest.libc,
            onnxruntime=pins["onnxruntime"],
            numpy=pins["numpy"],
            sysroot=None if sysroot is None else str(sysroot.resolve()),
            fetched=fetched,
        )
        shutil.rmtree(scratch)
        write_manifest(place, manifest)
        shutil.rmtree(folder, ignore_errors=True)
        place.rename(folder)
    except OSError as error:
        raise refuse_output(folder, error) from error
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return manifest


def _unpack_root(place: Path, scratch: Path, mirror: str | None) -> list[Path]:
    apt = open_apt(scratch / "apt", ARCHITECTURES["aarch64"], mirror)
    python = find_python(apt)
    debs = fetch_packages(apt, [name.format(python=python) for name in _PACKAGES])
    unpack_packages(debs, place / "root", scratch / "root")
    return debs


def _unpack_emulator(place: Path, scratch: Path) -> list[Path]:
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        raise refuse_step(f"{PROGRAMS[0]} on the search path", "none", "install qemu's user emulation")
    # (A mirror was given for arm64; what this machine runs comes from its own sources.)
    debs = fetch_packages(open_apt(scratch / "apt-host", architecture), ["qemu-user"])
    unpack_packages(debs, place / OWN, scratch / "root-host")
    for path in (place / OWN / "usr" / "bin").iterdir():  # the package has an emulator for each of 30 architectures
        if path.name not in (*PROGRAMS, *X86_PROGRAMS):
            path.unlink()
    return debs


def _find_program(root: Path, sysroot: Path | None) -> str:
    """The newest CPython of a root, as in ``usr/bin/python3.11``."""
    found = {
        int(match[1]): path.name
        for path in (root / "usr" / "bin").glob("python3.*")
        if (match := re.fullmatch(r"python3\.(\d+)", path.name))
    }
    if not found:
        raise UsageError(
            where=sysroot or root,
            expected="a root of an arm64 system with a Python, usr/bin/python3.N",
            found="none",
            todo="give the folder that holds usr/, as debootstrap or an unpacked container image has it",
        )
    return f"usr/bin/{found[max(found)]}"


def _add_view(folder: Path, emulator: Sequence[str], version: str, cpu: str) -> None:
    """Add what ``cpu`` sees, and see that ONNX Runtime loads there; nothing is left of a CPU on which it does not."""
    final = find_view(folder, version, cpu)
    view = final.with_name(f".{cpu}{_TEMPORARY}")
    shutil.rmtree(view, ignore_errors=True)
    try:
        guest = ask_guest(emulator, cpu, folder / "root", folder / "venv" / "bin" / "python")
        write_view(view, "../../../root", guest)
        check_runtime(emulator, cpu, folder, view)
        view.rename(final)
    except OSError as error:
        raise refuse_output(final, error) from error
    finally:
        shutil.rmtree(view, ignore_errors=True)


def _choose_cpus(wanted: Sequence[str], known: Sequence[str]) -> list[str]:
    unknown = [cpu for cpu in wanted if cpu not in known]
    if unknown:
        raise UsageError(
            where="--cpu",
            expected=f"a CPU that this qemu can be ({', '.join(known)})",
            found=repr(unknown[0]),
            todo="choose one of these",
        )
    return list(dict.fromkeys(wanted)) or [cpu for cpu in CPUS if cpu in known]


def _read_pair(version: str) -> tuple[int, int]:
    parts = re.findall(r"\d+", version)
    if len(parts) < 2:
        raise refuse_step("a CPython on glibc in the arm64 root", repr(version), "give another root with --sysroot DIR")
    return int(parts[0]), int(parts[1])


@contextlib.contextmanager
def _holding(folder: Path) -> Iterator[None]:
    """Hold the cache's folder for this process, and clear away what a killed one left half-built."""
    lock = filelock.FileLock(folder / ".lock", timeout=_WAIT_S)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(
            where=folder,
            expected="no other set-up at work there",
            found=f"one that took more than {_WAIT_S:.0f} s",
            todo="wait for it to end",
        ) from error
    except OSError as error:
        raise refuse_output(folder, error) from error
    try:
        for left in folder.glob(f".*{_TEMPORARY}"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        lock.release()
