"""Packages of the distribution for any architecture, fetched and unpacked without root and without installing them.

apt gets a state of its own: an empty list of installed packages, its own lists and archives, and none
of the host's hooks (some clean the host's cache). Sources and keyrings are the host's own, and apt
checks every file against the signed lists.
"""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.targets.emulation.programs import call_program, refuse_step

#: ``platform.machine()`` -> Debian's word.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# What libraries and a Python consist of; documentation, daemons and the like stay behind.
_KEPT = ("lib", "lib64", "usr/lib", "usr/lib64", "usr/bin")
_CONF = """\
#clear APT::Architectures;
#clear APT::Update;
#clear DPkg;
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::State "{state}";
Dir::State::lists "{state}/lists";
Dir::State::status "{state}/status";
Dir::Cache "{state}/cache";
Dir::Log "{state}";
"""
_TODO = "see that apt can reach a mirror with {} packages (--mirror URI), or give a root with --sysroot DIR"


class Apt(msgspec.Struct, frozen=True, kw_only=True):
    """A private apt state for one architecture. ``warnings`` are what apt said of sources that it could not read."""

    conf: Path
    architecture: str
    warnings: str = ""


def open_apt(state: Path, architecture: str, mirror: str | None = None) -> Apt:
    """Make a private apt state in the folder ``state`` and fetch its lists.

    ``mirror`` is the URI of a mirror to use in place of the host's sources: Ubuntu's for amd64 carry no arm64.
    """
    for part in ("lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True)
    (state / "status").touch()
    conf = _CONF.format(architecture=architecture, state=state)
    if mirror is not None:
        (state / "sources.list").write_text(_write_sources(mirror), encoding="utf-8")
        conf += f'Dir::Etc::sourcelist "{state}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
    (state / "apt.conf").write_text(conf, encoding="utf-8")
    apt = Apt(conf=state / "apt.conf", architecture=architecture)
    printed = _call_apt(apt, "apt-get", ["--quiet", "update"], f"apt's lists of {architecture} packages")
    # A source that cannot be reached is a warning to apt: another one may have all that is wanted.
    failed = [line for text in printed for line in text.splitlines() if line.startswith("W:")]
    return msgspec.structs.replace(apt, warnings="; ".join(failed[:2]))


def find_python(apt: Apt) -> str:
    """The distribution's own Python, as in ``python3.11``."""
    expected = f"the distribution's Python for {apt.architecture}"
    said, _ = _call_apt(apt, "apt-cache", ["depends", "python3-minimal"], expected)
    found = re.search(r"\b(python3\.\d+)-minimal\b", said)
    if found is None:
        raise refuse_step(expected, _add_warnings(apt, "none in apt's lists"), _TODO.format(apt.architecture))
    return found[1]


def fetch_packages(apt: Apt, packages: Sequence[str]) -> list[Path]:
    """Download packages and all that they depend on; the paths of the ``.deb`` files."""
    archives = apt.conf.parent / "cache" / "archives"
    words = ["--quiet", "--yes", "--download-only", "install", *packages]
    _call_apt(apt, "apt-get", words, f"{', '.join(packages)} for {apt.architecture}")
    return sorted(archives.glob("*.deb"))


def _call_apt(apt: Apt, program: str, words: Sequence[str], expected: str) -> tuple[str, str]:
    todo = _TODO.format(apt.architecture)
    argv = [program, "-c", str(apt.conf), *words]
    try:
        return call_program(argv, expected=expected, todo=todo, cwd=apt.conf.parent)
    except UnavailableError as error:
        raise refuse_step(expected, _add_warnings(apt, error.found), todo) from error


def _add_warnings(apt: Apt, found: str) -> str:
    return f"{found} ({apt.warnings})" if apt.warnings else found


def unpack_packages(files: Sequence[Path], root: Path, scratch: Path) -> None:
    """Unpack libraries and programs of ``.deb`` files into ``root``, which may not be there yet.

    ``lib`` is there afterwards whether or not the packages have gone over to ``usr/lib``.
    """
    for file in files:
        call_program(
            ["dpkg-deb", "--extract", str(file), str(scratch)],
            expected=f"{file.name} unpacked",
            todo="free some space there, or run it again",
            cwd=scratch.parent,
        )
    root.mkdir()
    for part in _KEPT:
        if (scratch / part).is_dir():
            (root / part).parent.mkdir(exist_ok=True)
            shutil.move(scratch / part, root / part)
    for part in ("lib", "lib64"):
        if not (root / part).exists() and (root / "usr" / part).is_dir():
            (root / part).symlink_to(f"usr/{part}")


def _write_sources(mirror: str) -> str:
    try:
        system = platform.freedesktop_os_release()
        release = system["VERSION_CODENAME"]
    except (OSError, KeyError) as error:
        raise refuse_step(
            "the name of this Debian's or Ubuntu's release in /etc/os-release", "none", "leave out --mirror"
        ) from error
    parts = "main universe" if "ubuntu" in (system.get("ID"), system.get("ID_LIKE")) else "main"
    return "".join(f"deb {mirror} {suite} {parts}\n" for suite in (release, f"{release}-updates"))
