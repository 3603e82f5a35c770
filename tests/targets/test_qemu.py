"""Emulated CPUs: which words mean one, what an AVX2 CPU without VNNI answers, and what an ARM CPU does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets import Answer, Job, Session, open_target, parse_provider, qemu
from mbdeploy.targets.emulation import prefix

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


def test_without_qemu_the_package_to_install_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(qemu.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UnavailableError, match="apt-get install qemu-user"):
        open_target(parse_provider("cpu@qemu:haswell"))


def test_an_architecture_that_cannot_be_emulated_here_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu.platform, "machine", lambda: "aarch64")
    with pytest.raises(UnavailableError, match="one for aarch64"):
        open_target(parse_provider("cpu@qemu:haswell"))


@pytest.fixture
def stand_in_arm(stand_in_qemu: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A prefix in a cache of its own with one CPU, and a qemu-aarch64 that runs this machine's Python."""
    program = stand_in_qemu.with_name("qemu-aarch64")
    program.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = --version ]; then echo "qemu-aarch64 version 9.9.9 (made up)"; exit 0; fi\n'
        'if [ "$2" = help ]; then printf "Available CPUs:\\n  cortex-a53\\n  cortex-a76\\n  max\\n"; exit 0; fi\n'
        'shift 6; exec "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = prefix.find_prefix()
    prefix.find_view(folder, "9.9.9", "cortex-a53").mkdir(parents=True)
    (folder / "venv/bin").mkdir(parents=True)
    python = folder / "venv/bin/python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    prefix.write_manifest(
        folder,
        prefix.Manifest(
            home=str(folder), python="3.11.2", libc="2.36", onnxruntime="1", numpy="2", sysroot=None, fetched=()
        ),
    )
    return folder


@pytest.mark.parametrize("word", ["arm", "arm@qemu", "arm@qemu:cortex-a53", "cpu@qemu:Cortex-A53", "cpu@qemu:aarch64"])
def test_arm_is_the_prefixs_python_as_the_cpu_that_is_named_or_the_first(stand_in_arm: Path, word: str) -> None:
    target = open_target(parse_provider(word))
    assert (target.name, target.emulated) == ("qemu:cortex-a53", True)
    assert target.emulator == "qemu-aarch64 version 9.9.9 -cpu cortex-a53"  # type: ignore[attr-defined]
    command = target.command  # type: ignore[attr-defined]
    assert command[1:5] == ("-cpu", "cortex-a53", "-L", str(stand_in_arm / "cpus/9.9.9/cortex-a53"))
    assert command[-2:] == (str(stand_in_arm / "venv/bin/python"), "-I")


def test_the_same_agent_runs_behind_the_emulated_python(
    stand_in_arm: Path, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider=CPU)
    answer = open_target(parse_provider("arm")).run(Job(kind="infer", sessions=(session,), inputs=images))
    assert answer.host.emulator == "qemu-aarch64 version 9.9.9 -cpu cortex-a53"
    np.testing.assert_allclose(answer.sessions[0].outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)


def test_without_a_prefix_the_one_command_that_builds_it_is_named(
    stand_in_arm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    with pytest.raises(UnavailableError, match=r"build it with `mbdeploy targets setup qemu`$") as caught:
        open_target(parse_provider("arm"))
    assert caught.value.exit_code == 3


def test_a_cpu_that_the_prefix_lacks_is_named_with_the_command_that_adds_it(stand_in_arm: Path) -> None:
    with pytest.raises(UnavailableError, match=r"`mbdeploy targets setup qemu --cpu cortex-a76`$"):
        open_target(parse_provider("arm@qemu:cortex-a76"))


def test_a_newer_qemu_does_not_use_what_an_older_one_was_asked(stand_in_arm: Path, stand_in_qemu: Path) -> None:
    program = stand_in_qemu.with_name("qemu-aarch64")
    program.write_text(program.read_text().replace("9.9.9", "10.0.0"))
    with pytest.raises(UnavailableError, match=r"for qemu 10\.0\.0"):
        open_target(parse_provider("arm"))


def test_arm_is_not_answered_by_an_x86_cpu(stand_in_arm: Path) -> None:
    with pytest.raises(UsageError, match="cortex-a53"):
        open_target(parse_provider("arm@qemu:haswell"))
    with pytest.raises(UnavailableError, match="this machine, which is x86_64"):
        open_target(parse_provider("arm@local"))


def test_a_cpu_near_an_arm_name_is_refused_with_arm_cpus(stand_in_arm: Path) -> None:
    with pytest.raises(UsageError, match="cortex-a53, cortex-a76"):
        open_target(parse_provider("cpu@qemu:cortex-a99"))


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


@pytest.fixture
def clipping_model(write_model: Callable[..., Path]) -> Path:
    """A 1x1 convolution in INT8 over 3 channels, all weights 127: at 255 the exact answer is 3 x 127 x 255 = 97155.

    255 x (127 + 127) leaves int16: AVX2 makes 32767 of it where exact arithmetic makes 64770.
    """
    unit, zero_u8, zero_s8 = np.float32(1), np.uint8(0), np.int8(0)
    return write_model(
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


def run_both_ways(word: str, model: Path) -> tuple[Answer, float, float]:
    """The answer of an emulated CPU to 255 everywhere: as executed and as exact."""
    sessions = tuple(Session(model=model, provider=CPU, optimization=level) for level in ("all", "none"))
    images = np.full((1, 3, 4, 4), 255, np.float32)
    answer = open_target(parse_provider(word)).run(Job(kind="infer", sessions=sessions, inputs=images))
    assert "QLinearConv" in answer.sessions[0].placement.operators
    executed, exact = (float(ran.outputs[0].max()) for ran in answer.sessions)
    return answer, executed, exact


@pytest.mark.emulation
@pytest.mark.slow
def test_an_emulated_haswell_clips_the_products_that_the_same_file_in_float_does_not(
    real_qemu: None, clipping_model: Path
) -> None:
    answer, executed, exact = run_both_ways("cpu@qemu:haswell", clipping_model)
    assert answer.host.isa == ("sse4.1", "avx2")
    assert exact == 512 * round(3 * 127 * 255 / 512)
    assert executed == 512 * round((32767 + 127 * 255) / 512)


@pytest.mark.emulation
@pytest.mark.slow
@pytest.mark.parametrize(
    ("cpu", "isa"),
    [("cortex-a53", ("neon",)), pytest.param("cortex-a76", ("neon", "asimddp"), marks=pytest.mark.sweep)],
)
def test_an_emulated_arm_cpu_clips_nothing_with_and_without_dot_products(
    real_arm: None, clipping_model: Path, cpu: str, isa: tuple[str, ...]
) -> None:
    answer, executed, exact = run_both_ways(f"arm@qemu:{cpu}", clipping_model)
    assert (answer.host.machine, answer.host.isa) == ("aarch64", isa)
    assert executed == exact == 512 * round(3 * 127 * 255 / 512)
