"""Instruction counts of emulated CPUs: marks, what is missing, and a real count."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mbdeploy.errors import UnavailableError
from mbdeploy.targets import Job, Session, open_target, parse_provider
from mbdeploy.targets.emulation import counter, counting
from mbdeploy.targets.emulation.counter import count_instructions, read_counts
from mbdeploy.targets.process import ProcessTarget

CPU = "CPUExecutionProvider"


def make_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProcessTarget:
    """A target whose emulator, and the only programs on the search path, are made up in this folder."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    emulator = make_program(tmp_path / "bin/qemu-aarch64", "echo 'qemu: unknown option -plugin' >&2; exit 1")
    return ProcessTarget(name="qemu:x", command=(str(emulator), "-cpu", "x", "python"), emulator="x")


def test_a_count_is_the_difference_of_the_two_marks_around_a_run() -> None:
    assert read_counts("0 1000\n1 1500\n2 1600\n3 2000\n4 2001\n5 2401\n") == [500, 400, 400]


def test_a_mark_without_its_second_is_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        read_counts("0 1000\n1 1500\n2 1600\n")


def test_the_plugin_and_the_program_that_marks_agree_on_the_mark() -> None:
    source = Path(counter.__file__).with_name("counter.c").read_text(encoding="utf-8")
    assert f"0x{counting.MARK:08x}" in source


def test_the_program_that_marks_is_python_3_9() -> None:
    ast.parse(Path(counting.__file__).read_text(encoding="utf-8"), feature_version=(3, 9))


def test_without_a_c_compiler_it_is_named(target: ProcessTarget) -> None:
    with pytest.raises(UnavailableError, match="expected a C compiler"):
        count_instructions(target, Job(kind="infer"))


def test_a_qemu_without_plugins_is_named(target: ProcessTarget, tmp_path: Path) -> None:
    make_program(tmp_path / "bin/cc", "exit 0")
    with pytest.raises(UnavailableError, match=r"qemu-aarch64 that takes plugins, found qemu: unknown option"):
        count_instructions(target, Job(kind="infer"))


@pytest.mark.emulation
@pytest.mark.sweep
def test_twice_the_multiplications_are_more_instructions_on_each_of_three_runs(
    real_arm: None, write_model: Callable[..., Path]
) -> None:
    target = open_target(parse_provider("arm@qemu:cortex-a53"))
    assert isinstance(target, ProcessTarget)
    models = []
    for channels in (256, 512):
        node = helper.make_node("Conv", ["x", "w"], ["y"])
        weights = np.ones((channels, 3, 3, 3), np.float32)
        models.append(write_model([node], f"{channels}.onnx", w=weights))
    sessions = tuple(Session(model=path, provider=CPU) for path in models)
    job = Job(kind="infer", sessions=sessions, inputs=np.ones((2, 3, 4, 4), np.float32), batch_size=1)
    try:
        answer, counts = count_instructions(target, job)
    except UnavailableError as error:
        pytest.skip(str(error))
    assert answer.host.machine == "aarch64"
    assert [len(runs) for runs in counts] == [3, 3]
    # 3 x 3 x 3 x 4 multiply-adds for each of 256 more channels, at most 4 in one instruction.
    assert min(counts[1]) - min(counts[0]) > 27 * 4 * 256 / 4
