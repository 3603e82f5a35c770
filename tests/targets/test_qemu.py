"""Emulated x86 CPUs: which words mean one, and what an AVX2 CPU without VNNI answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets import Job, Session, open_target, parse_provider, qemu

CPU = "CPUExecutionProvider"


@pytest.mark.parametrize(
    ("word", "name", "cpu"),
    [
        ("cpu@qemu", "qemu:haswell", "Haswell"),
        ("cpu@qemu:HASWELL", "qemu:haswell", "Haswell"),
        ("cpu@qemu:skylake-client-v1", "qemu:skylake-client-v1", "Skylake-Client-v1"),
    ],
)
def test_a_cpu_is_found_in_whatever_case_and_given_to_qemu_in_its_own(
    stand_in_qemu: Path, word: str, name: str, cpu: str
) -> None:
    target = open_target(parse_provider(word))
    assert target.name == name and target.emulated
    assert target.command[:3] == (str(stand_in_qemu), "-cpu", cpu)  # type: ignore[attr-defined]
    assert target.emulator == f"qemu-x86_64 version 9.9.9 -cpu {cpu}"  # type: ignore[attr-defined]


def test_a_cpu_that_this_qemu_cannot_be_is_refused_with_near_ones(stand_in_qemu: Path) -> None:
    with pytest.raises(UsageError, match="Haswell"):
        open_target(parse_provider("cpu@qemu:hasbeen"))


def test_without_qemu_the_package_to_install_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="apt-get install qemu-user"):
        open_target(parse_provider("cpu@qemu:haswell"))


def test_an_architecture_that_cannot_be_emulated_here_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu.platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="one for aarch64"):
        open_target(parse_provider("cpu@qemu:haswell"))


def test_an_emulator_that_does_not_start_is_unavailable(stand_in_qemu: Path) -> None:
    stand_in_qemu.write_text("not a program")
    with pytest.raises(UnavailableError, match="an emulator that starts"):
        open_target(parse_provider("cpu@qemu"))


def test_the_same_agent_runs_behind_the_emulator_and_says_what_it_emulates(
    stand_in_qemu: Path, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider=CPU)
    answer = open_target(parse_provider("cpu@qemu")).run(Job(kind="infer", sessions=(session,), inputs=images))
    assert answer.host.emulator == answer.host.cpu == "qemu-x86_64 version 9.9.9 -cpu Haswell"
    assert "sse4.1" in answer.host.isa
    np.testing.assert_allclose(answer.sessions[0].outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


@pytest.mark.emulation
@pytest.mark.slow
def test_an_emulated_haswell_clips_the_products_that_the_same_file_in_float_does_not(
    real_qemu: None, write_model: Callable[..., Path]
) -> None:
    """255 x (127 + 127) leaves int16: AVX2 answers 32767 for it, exact arithmetic 64770."""
    unit, zero_u8, zero_s8 = np.float32(1), np.uint8(0), np.int8(0)
    path = write_model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "zu"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "zu"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "s", "zs"], ["wd"]),
            helper.make_node("Conv", ["xd", "wd"], ["c"]),
            helper.make_node("QuantizeLinear", ["c", "so", "zu"], ["cq"]),
            helper.make_node("DequantizeLinear", ["cq", "so", "zu"], ["y"]),
        ],
        w=np.full((1, 3, 1, 1), 127, np.int8),
        s=unit,
        so=np.float32(512),
        zu=zero_u8,
        zs=zero_s8,
    )
    images = np.full((1, 3, 4, 4), 255, np.float32)
    sessions = tuple(Session(model=path, provider=CPU, optimization=level) for level in ("all", "none"))
    answer = open_target(parse_provider("cpu@qemu:haswell")).run(Job(kind="infer", sessions=sessions, inputs=images))
    assert answer.host.isa == ("sse4.1", "avx2")
    assert "QLinearConv" in answer.sessions[0].placement.operators
    executed, exact = (float(ran.outputs[0].max()) for ran in answer.sessions)
    assert exact == 512 * round(3 * 127 * 255 / 512)
    assert executed == 512 * round((32767 + 127 * 255) / 512)
