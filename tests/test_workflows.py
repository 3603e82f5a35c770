"""What runs by itself on a forge: the workflows name scripts, options and extras that are there, and forget none."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    import tomli as tomllib
else:
    import tomllib

ROOT = Path(__file__).parents[1]


def read_workflow(name: str) -> str:
    return (ROOT / ".github" / "workflows" / f"{name}.yml").read_text(encoding="utf-8")


def list_requirements(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """Names of the packages that an extra brings, by the extras that it names, too."""
    found = set()
    for requirement in extras[extra]:
        own = re.fullmatch(r"mbdeploy\[([a-z]+)\]", requirement)
        name = re.split(r"[^A-Za-z0-9_-]", requirement)[0].replace("_", "-").lower()
        found |= list_requirements(own[1], extras) if own else {name}
    return found


def test_the_packages_of_every_extra_are_audited() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    matrix = re.search(r"extra: \[([a-z, ]+)\]", read_workflow("security"))
    assert matrix is not None and "-c constraints.txt -e '.[${{ matrix.extra }}]'" in read_workflow("security")
    audited = set().union(*(list_requirements(extra, extras) for extra in matrix[1].split(", ")))
    assert {extra for extra in extras if not list_requirements(extra, extras) <= audited} == set()


@pytest.mark.parametrize("script", ["kill_nine", "disk_full", "mutants"])
def test_the_benchmarks_of_trust_run_at_night_with_a_bound_that_they_know(script: str) -> None:
    called = re.search(rf"benchmarks/{script}\.py (--[a-z]+) [0-9]+", read_workflow("nightly"))
    assert called is not None
    source = (ROOT / "benchmarks" / f"{script}.py").read_text(encoding="utf-8")
    assert f'add_argument("{called[1]}", type=int' in source
