"""What a board's Python must have to run a job, how new it must be, and the one command that brings it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mbdeploy.errors import UnavailableError
from mbdeploy.targets.job import Job
from mbdeploy.targets.providers import find_row
from mbdeploy.versions import read_version

#: Where the board's own Python for us is, relative to the home directory there; else it is python3 on the search path.
OWN_PYTHON = ".mbdeploy/bin/python3"
#: Package -> the oldest version that may be handed a file, as the package itself asks for them here.
FLOORS = {"numpy": (1, 26), "onnxruntime": (1, 24), "onnxruntime-gpu": (1, 23), "openvino": (2025, 0)}
#: Python -> the last ONNX Runtime with wheels for it, where that is older.
LAST = {(3, 9): (1, 19), (3, 10): (1, 23)}


class FarPackages(msgspec.Struct, frozen=True):
    """What could be imported there: versions in the order of asking, and why the next one ``failed``, if one did."""

    python: tuple[int, int]
    versions: dict[str, str]
    failed: str


def list_needed(job: Job) -> dict[str, str]:
    """The packages that a job's agent imports, numpy first, and the distribution that brings each."""
    rows = [find_row(session.provider) for session in job.sessions]
    carriers = {row.wheel for row in rows if row is not None and row.wheel in FLOORS and not row.beside}
    brings = {"onnxruntime": carriers.pop() if len(carriers) == 1 else "onnxruntime"}
    runtimes = {session.runtime for session in job.sessions} or {"onnxruntime"}
    return {package: brings.get(package, package) for package in ["numpy", *sorted(runtimes)]}


def find_floor(distribution: str, python: tuple[int, int]) -> tuple[int, ...]:
    """The oldest version that will do with this Python."""
    return LAST.get(python, FLOORS[distribution]) if distribution == "onnxruntime" else FLOORS[distribution]


def check_packages(job: Job, found: FarPackages, *, name: str, login: str, python: str) -> None:
    """Refuse a board on which a package that a job needs cannot be imported, or is too old.

    Raises:
        UnavailableError: with the one command for this board.
    """
    for package, distribution in list_needed(job).items():
        floor, version = find_floor(distribution, found.python), found.versions.get(package)
        oldest = ".".join(map(str, floor))
        reason = found.failed or "it ended early" if version is None else version or "one that does not say its version"
        if version is None or read_version(version) < floor:
            raise UnavailableError(
                where=name,
                expected=f"{package} {oldest} or newer that {python} there can import",
                found=reason,
                todo=advise(job, login, python, again=True),
            )


def check_present(job: Job, modules: Sequence[str], *, name: str, login: str, python: str) -> None:
    """Refuse a board that lacks a package.

    Raises:
        UnavailableError: with the one command for this board.
    """
    missing = [package for package in list_needed(job) if package not in modules]
    if missing:
        raise UnavailableError(
            where=name,
            expected=f"{' and '.join(missing)} for {python} there",
            found="no such package",
            todo=advise(job, login, python, again=False),
        )


def advise(job: Job, login: str, python: str, *, again: bool) -> str:
    """The command that brings what the job needs: ``again`` where something of it is there, and no good."""
    own = python.endswith(OWN_PYTHON)
    flags = ("--upgrade", "--force-reinstall") if again and own else ()
    install = " ".join([f"~/{OWN_PYTHON} -m pip install", *flags, *list_needed(job).values()])
    return f"run `ssh {login} '{install if own else f'python3 -m venv ~/.mbdeploy && {install}'}'`"
