"""aarch64 wheels from the user's own pip index: fetched by pip, unpacked into a virtual environment made by hand."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from mbdeploy.targets.emulation.programs import call_program

_OLDEST_GLIBC = 17  # 2.17, that of manylinux2014


def fetch_wheels(folder: Path, pins: Mapping[str, str], python: tuple[int, int], glibc: tuple[int, int]) -> list[Path]:
    """Download one wheel a pin (name -> version) for this CPython and for a glibc no newer than this; the files."""
    minors = range(glibc[1], _OLDEST_GLIBC - 1, -1)
    platforms = [f"manylinux_2_{minor}_aarch64" for minor in minors] + ["manylinux2014_aarch64"]
    wanted = [f"{name}=={version}" for name, version in pins.items()]
    folder.mkdir()
    call_program(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
            *("--dest", str(folder), "--no-deps", "--only-binary=:all:", "--implementation", "cp"),
            *("--python-version", f"{python[0]}.{python[1]}", "--abi", f"cp{python[0]}{python[1]}"),
            *(word for name in platforms for word in ("--platform", name)),
            *wanted,
        ],
        expected=f"aarch64 wheels of {' and '.join(wanted)} for Python {python[0]}.{python[1]}",
        todo="see that pip works here and reaches an index with these wheels",
        cwd=folder.parent,
    )
    return sorted(folder.glob("*.whl"))


def make_environment(venv: Path, program: Path, python: tuple[int, int], wheels: list[Path]) -> None:
    """A virtual environment by hand (``python -m venv`` would have to run under emulation) with these wheels.

    ``program`` is the interpreter as it will be called, a file of ``root`` beside ``venv``. Wheels are
    unpacked as the archives they are: neither scripts nor headers of these two are needed.
    """
    site_packages = venv / "lib" / f"python{python[0]}.{python[1]}" / "site-packages"
    site_packages.mkdir(parents=True)
    for file in wheels:
        with zipfile.ZipFile(file) as archive:
            archive.extractall(site_packages)
    (venv / "bin").mkdir()
    (venv / "bin" / "python").symlink_to(f"../../root/usr/bin/{program.name}")
    text = f"home = {program.parent}\ninclude-system-site-packages = false\n"
    (venv / "pyvenv.cfg").write_text(text, encoding="utf-8")
