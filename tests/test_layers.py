"""The architecture of docs/design.md, enforced over the source: who may import whom, and who may touch the outside."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mbdeploy

PACKAGE = Path(mbdeploy.__file__).parent

# From the top down. What stands in one row may be imported by the rows above it only.
LAYERS = (
    ("cli", "pytest_plugin"),
    ("gating", "searching", "testing"),
    ("pipeline", "remembering", "sharing", "sweeping", "tradeoff"),
    ("stages",),
    ("timing", "executing"),
    ("auditing", "costs", "mixing", "provenance", "tracing"),
    ("nets", "rewrites", "quant", "targets", "data"),
    ("golden", "swept"),
    ("derive",),
    ("estimate",),
    ("model_file",),
    ("preflight",),
    ("artifact",),
    ("card",),
    ("assets",),
    ("results", "records"),
    ("isolate",),
    ("watch",),
    ("bounds",),
    ("calls", "errors", "decoding", "pareto", "versions"),
)
RANKS = {name: rank for rank, row in enumerate(LAYERS) for name in row}
STAGES = {
    "audit",
    "calibrate",
    "export",
    "halve",
    "simplify",
    "quantize",
    "verify",
    "bench",
    "bundle",
    "evaluate",
    "inspect",
    "report",
}

# Outside nets/, the work of the children that run networks.
WITH_TORCH = {"mbdeploy.stages.export_job", "mbdeploy.stages.inspect_torch"}

# Who below cli/ may print, exit, or read the environment, and why.
OUTSIDE = {
    "isolate.py": "ends its child",
    "watch.py": "passes the allowed part of the environment on to children",
    "assets.py": "reads $MBDEPLOY_PATH and $XDG_CACHE_HOME, the settings that are not arguments",
    "targets/agent.py": "is a program of its own: it answers on standard output",
    "targets/bundle_verify.py": "is a program of its own: it shows its result and ends with an exit code",
    "targets/board/far.py": "is a program of its own: it runs on the board",
    "targets/emulation/counting.py": "is a program of its own: it ends with its own exit status",
    "targets/emulation/guest.py": "is a program of its own: it answers on standard output",
}
HEAVY = {
    "torch",
    "onnx",
    "onnxruntime",
    "openvino",
    "numpy",
    "PIL",
    "onnxsim",
    "onnxscript",
    "duckdb",
    "pyarrow",
    "optuna",
}


def name_module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_module(path): path for path in sorted(PACKAGE.rglob("*.py")) if "_share" not in path.parts}


@functools.cache
def parse(name: str) -> ast.Module:
    return ast.parse(MODULES[name].read_text(encoding="utf-8"), str(MODULES[name]))


def list_imports(tree: ast.AST) -> Iterator[str]:
    """Every module that an import statement anywhere below names; ``from a import b`` gives a.b if that is ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            base = node.module or ""
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base


@functools.cache
def own_imports(name: str) -> frozenset[str]:
    return frozenset({found for found in list_imports(parse(name)) if found.split(".")[0] == "mbdeploy"})


def room_of(name: str) -> str:
    """The layer's word for a module: its first part below the package ("" for the package itself)."""
    return [*name.split("."), ""][1]


def reach(name: str) -> set[str]:
    """All of our modules that come with this one, packages included, however late they are imported."""
    found: set[str] = set()
    waiting = {name}
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        ours = {".".join(parts[:size]) for size in range(1, len(parts) + 1)} & set(MODULES)
        new = ours - found
        found |= new
        for one in new:
            waiting |= own_imports(one) - found
    return found


def foreign_imports(name: str) -> set[str]:
    return {found.split(".")[0] for found in list_imports(parse(name))} - {"mbdeploy"}


def test_every_module_has_its_place_in_the_table() -> None:
    assert {name for name in MODULES if room_of(name) not in {*RANKS, ""}} == set()


def test_a_layer_imports_only_what_lies_below_it() -> None:
    upward = {
        (name, found)
        for name in MODULES
        for found in own_imports(name)
        if (room := room_of(name))
        and room_of(found) != room
        and (room_of(found) == "" or RANKS[room_of(found)] <= RANKS[room])
    }
    assert upward == set()


def test_no_stage_is_imported_by_another_module_of_the_stages() -> None:
    stages = {f"mbdeploy.stages.{stage}" for stage in STAGES}
    importers = {
        (name, found)
        for name in MODULES
        if room_of(name) == "stages"
        for found in (own_imports(name) & stages) - {name}
    }
    assert importers == set()


def test_torch_is_imported_only_where_networks_are() -> None:
    elsewhere = {name for name in MODULES if room_of(name) != "nets" and name not in WITH_TORCH}
    assert {name for name in elsewhere if "torch" in foreign_imports(name)} == set()


@pytest.mark.parametrize("stage", ["verify", "bench"])
def test_verify_and_bench_never_reach_torch(stage: str) -> None:
    reached = reach(f"mbdeploy.stages.{stage}")
    assert f"mbdeploy.stages.{stage}" in reached
    assert [name for name in sorted(reached) if "torch" in foreign_imports(name)] == []
    assert [name for name in sorted(reached) if room_of(name) == "nets"] == []


def test_the_agent_imports_nothing_of_ours() -> None:
    name = "mbdeploy.targets.agent"
    assert own_imports(name) == set()
    assert foreign_imports(name) - set(sys.stdlib_module_names) <= {"numpy", "onnxruntime", "openvino"}


def test_below_the_command_line_nobody_prints_exits_or_reads_the_environment() -> None:
    found = {
        (name, place)
        for name, path in MODULES.items()
        if room_of(name) != "cli" and str(path.relative_to(PACKAGE)) not in OUTSIDE
        for place in find_outside(parse(name))
    }
    assert found == set()


def find_outside(tree: ast.AST) -> Iterator[str]:
    forbidden = {
        ("sys", "exit"),
        ("sys", "argv"),
        ("sys", "stdout"),
        ("sys", "stderr"),
        ("sys", "stdin"),
        ("os", "environ"),
        ("os", "getenv"),
        ("os", "putenv"),
        ("os", "_exit"),
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in ("print", "input", "exit")
        ):
            yield f"line {node.lineno}: {node.func.id}()"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if (node.value.id, node.attr) in forbidden:
                yield f"line {node.lineno}: {node.value.id}.{node.attr}"
        elif isinstance(node, ast.Name) and node.id == "SystemExit":
            yield f"line {node.lineno}: SystemExit"
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "sys"):
            names = {alias.name for alias in node.names}
            yield from (
                f"line {node.lineno}: from {module} import {attribute}"
                for module, attribute in forbidden
                if module == node.module and attribute in names
            )


@pytest.mark.parametrize(
    "source",
    ["print(1)", "import os\nos.environ['A']", "from os import environ", "import sys\nsys.exit(2)", "raise SystemExit"],
)
def test_the_search_for_the_outside_finds_it(source: str) -> None:
    assert list(find_outside(ast.parse(source)))


@pytest.mark.parametrize("name", OUTSIDE)
def test_an_exception_is_listed_only_while_it_is_needed(name: str) -> None:
    assert list(find_outside(parse(name_module(PACKAGE / name))))


def test_a_file_starts_by_saying_what_it_is_for() -> None:
    assert {name for name in MODULES if parse(name).body and not ast.get_docstring(parse(name))} == set()


def test_the_package_and_its_core_load_nothing_heavy() -> None:
    program = (
        "import sys; import mbdeploy, mbdeploy.card, mbdeploy.artifact, mbdeploy.isolate, mbdeploy.results; "
        f"print(sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}; {program}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_every_public_name_is_where_the_table_says() -> None:
    for name, module in mbdeploy._PUBLIC.items():
        assert module in MODULES, module
        defined = {node.name for node in ast.walk(parse(module)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        imported = {
            alias.asname or alias.name
            for node in ast.walk(parse(module))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert name in defined | imported, f"{module} has no {name}"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        mbdeploy.nonsense  # noqa: B018
