"""Mutation-test the code of the gates: change one operator, number or return at a time, and see a test fail.

    python benchmarks/mutants.py [--module metrics] [--limit 0] [--json FILE]

Every mutant runs in a fork of a process that has loaded the heavy packages already, against the module's own tests,
up to a time limit that grows with what the tests take unchanged. One that no test fails has survived: it must have its
reason in `tests/mutants.toml`, by its line and what was changed, or the exit code is 1. Texts (error messages, notes),
annotations and the defaults of structs are left alone.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Module -> the tests that are there for it, the quick ones first.
MODULES = {
    "mbdeploy.quant.metrics": ("tests/quant/test_metrics.py", "tests/test_gates.py"),
    "mbdeploy.derive": ("tests/test_derive.py", "tests/test_gates.py"),
    "mbdeploy.estimate": ("tests/test_estimate.py",),
    "mbdeploy.stages.parity": ("tests/stages/test_parity.py",),
    "mbdeploy.gating.holm": ("tests/gating/test_holm.py",),
    "mbdeploy.gating.budgets": ("tests/gating/test_budgets.py", "tests/gating/test_init.py"),
}
COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "min": "max",
    "max": "min",
    "any": "all",
    "all": "any",
    "floor": "ceil",
    "ceil": "floor",
    "argmax": "argmin",
}
KILLED, SURVIVED = 0, 7


def list_changes(node: ast.AST) -> Iterator[tuple[str, Callable[[ast.AST], ast.AST]]]:
    """What can be changed about this node, in words, and how; the way gets a copy of the node."""

    def put(**fields: object) -> Callable[[ast.AST], ast.AST]:
        def change(found: ast.AST) -> ast.AST:
            for name, value in fields.items():
                setattr(found, name, value)
            return found

        return change

    match node:
        case ast.Compare():
            for place, op in enumerate(node.ops):
                for other in COMPARISONS.get(type(op), ()):
                    ops = [*node.ops[:place], other(), *node.ops[place + 1 :]]
                    yield f"{type(op).__name__} -> {other.__name__}", put(ops=ops)
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            other_op = ARITHMETIC[type(node.op)]
            yield f"{type(node.op).__name__} -> {other_op.__name__}", put(op=other_op())
        case ast.BoolOp():
            swapped = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            yield f"{type(node.op).__name__} -> {type(swapped).__name__}", put(op=swapped)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield f"{type(node.op).__name__} dropped", lambda found: found.operand  # type: ignore[attr-defined]
        case ast.Constant(value=bool()):
            yield f"{node.value} -> {not node.value}", put(value=not node.value)
        case ast.Constant(value=int() | float()):
            yield f"{node.value} -> {node.value + 1}", put(value=node.value + 1)
        case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES and isinstance(node.ctx, ast.Load):
            field = "id" if isinstance(node, ast.Name) else "attr"
            yield f"{name} -> {NAMES[name]}", put(**{field: NAMES[name]})
        case ast.Return(value=ast.expr()) if not (isinstance(node.value, ast.Constant) and node.value.value is None):
            yield "return None", put(value=ast.Constant(None))
        case ast.If() | ast.IfExp() | ast.While():
            yield "condition negated", put(test=ast.UnaryOp(ast.Not(), node.test))


def list_places(tree: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """Every node that may be changed, as (parent, field, index); texts and annotations are left out."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "decorator_list", "keywords" if isinstance(tree, ast.ClassDef) else ""):
            continue
        if isinstance(value, ast.JoinedStr):
            continue
        if isinstance(value, list):
            for index, child in enumerate(value):
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                    yield tree, field, index
                    yield from list_places(child)
        elif isinstance(value, ast.AST):
            yield tree, field, None
            yield from list_places(value)


def make_mutants(source: str) -> Iterator[tuple[str, int, ast.Module]]:
    """Every mutant of a module: its name (the line's text and what was changed), its line, its tree."""
    tree, lines = ast.parse(source), source.splitlines()
    seen: dict[str, int] = {}
    for number, (parent, field, index) in enumerate(list(list_places(tree))):
        value = getattr(parent, field)
        node = value if index is None else value[index]
        for place, (words, _) in enumerate(list_changes(node)):
            changed = copy.deepcopy(tree)
            twin, _, _ = list(list_places(changed))[number]
            slot = getattr(twin, field)
            old = slot if index is None else slot[index]
            new = list(list_changes(old))[place][1](old)
            if index is None:
                setattr(twin, field, new)
            else:
                slot[index] = new
            line = getattr(node, "lineno", 0)
            name = f"{lines[line - 1].strip()} | {words}"
            seen[name] = seen.get(name, 0) + 1
            yield name + (f" | {seen[name]}" if seen[name] > 1 else ""), line, ast.fix_missing_locations(changed)


class Mutated(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module the code of a mutant when it is imported."""

    def __init__(self, name: str, path: Path, tree: ast.Module) -> None:
        self.name, self.path, self.tree = name, path, tree

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname != self.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        exec(compile(self.tree, str(self.path), "exec"), module.__dict__)


def run_tests(name: str, path: Path, tree: ast.Module, tests: Sequence[str], limit_s: float) -> tuple[bool, float]:
    """Whether the tests pass over this code, in a fork, and how long they took; over the limit they have failed."""
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        signal.alarm(max(1, round(limit_s)))
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        sys.meta_path.insert(0, Mutated(name, path, tree))
        import hypothesis
        import pytest

        hypothesis.settings.register_profile("mutants", max_examples=30, database=None, derandomize=True)
        hypothesis.settings.load_profile("mutants")
        # Tests in another process would see the code unchanged.
        choice = ["-m", "not slow and not sweep", "-k", "not switched_off"]
        code = pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *choice, *tests])
        os._exit(SURVIVED if code == 0 else KILLED)
    _, status = os.waitpid(pid, 0)
    passed = os.WIFEXITED(status) and os.WEXITSTATUS(status) == SURVIVED
    return passed, time.monotonic() - started


def load_heavy() -> None:
    """Load what every test loads, so that a fork has it; nothing of mbdeploy."""
    import hypothesis.extra.numpy
    import msgspec
    import onnx
    import PIL.Image
    import pytest

    assert all((hypothesis, msgspec, onnx, PIL, pytest))
    assert not any(name.startswith("mbdeploy") for name in sys.modules)


def read_reasons() -> dict[str, dict[str, str]]:
    """Module -> mutant -> why no test can tell it from the code."""
    if sys.version_info < (3, 11):
        import tomli as tomllib
    else:
        import tomllib

    reasons: dict[str, dict[str, str]] = tomllib.loads((ROOT / "tests/mutants.toml").read_text(encoding="utf-8"))
    return reasons


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", help="a part of a module's name; all of them without it")
    parser.add_argument("--limit", type=int, default=0, help="try so many mutants of each, evenly spread")
    parser.add_argument("--json", type=Path, help="save the survivors there")
    arguments = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    sys.dont_write_bytecode = True
    load_heavy()
    reasons, survivors, failed = read_reasons(), {}, False
    for name, tests in MODULES.items():
        if arguments.module and arguments.module not in name:
            continue
        path = ROOT / (name.replace(".", "/") + ".py")
        source = path.read_text(encoding="utf-8")
        passed, took = run_tests(name, path, ast.parse(source), tests, 600)
        if not passed:
            print(f"{name}: its tests fail without any mutation")
            return 2
        mutants = list(make_mutants(source))
        step = max(1, len(mutants) // arguments.limit) if arguments.limit else 1
        chosen, found = mutants[::step], {}
        print(f"{name}: {len(chosen)} mutants, its tests take {took:.0f} s", flush=True)
        for text, line, tree in chosen:
            if run_tests(name, path, tree, tests, 8 + 3 * took)[0]:
                found[text] = reasons.get(name, {}).get(text, "")
                if not found[text]:
                    failed = True
                    print(f"  survived: line {line}: {text}", flush=True)
        explained = sum(map(bool, found.values()))
        print(
            f"  {len(chosen) - len(found)} killed, {explained} survived with a reason, {len(found) - explained} without"
        )
        survivors[name] = found
    if arguments.json:
        arguments.json.write_text(json.dumps(survivors, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
