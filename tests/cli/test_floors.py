"""Parsers that are too old open no file, and the floors are those of the package."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from mbdeploy.cli import program
from mbdeploy.cli.floors import FLOORS, check_floors, read_version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_floors_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    python = "python_version >= '3.11'" if sys.version_info >= (3, 11) else "python_version < '3.11'"
    lines = [*project["dependencies"], *extras["export"], *extras["gpu"]]
    declared = {}
    for line in lines:
        requirement, _, marker = line.partition("; ")
        name, sign, version = requirement.partition(">=")
        if name in FLOORS and sign and marker in ("", python):
            declared[name] = read_version(version)
    assert declared == FLOORS


@pytest.mark.parametrize("name", FLOORS)
def test_an_older_version_ends_in_exit_code_3_with_one_line(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    older = f"{FLOORS[name][0]}.{FLOORS[name][1] - 1}.9+cpu"
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda asked: older if asked == name else real(asked))
    done = CliRunner().invoke(program, ["verify", "m.onnx"])
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: {name}: expected {FLOORS[name][0]}.{FLOORS[name][1]} or newer")
    assert f"found {older}" in done.stderr
    assert CliRunner().invoke(program, ["verify", "--help"]).exit_code == 0
    check_floors("doctor")


def test_what_is_not_installed_is_not_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", refuse)
    check_floors("verify")
