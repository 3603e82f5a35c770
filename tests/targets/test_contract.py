"""One contract for every target that is present: this machine, an emulated CPU, the fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbdeploy.errors import UnavailableError, UsageError
from mbdeploy.targets import Job, Session, Target, open_target, parse_provider
from mbdeploy.targets.fake import FakeTarget

CPU = "CPUExecutionProvider"


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    return [2 * inputs.mean(axis=(2, 3))]


@pytest.fixture(params=["local", "fake", pytest.param("qemu", marks=[pytest.mark.emulation, pytest.mark.slow])])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "fake":
        return FakeTarget(answer=answer_mean)
    if request.param == "qemu":
        request.getfixturevalue("real_qemu")
        return open_target(parse_provider("cpu@qemu:haswell"))
    return open_target(parse_provider("cpu"))


def test_a_probe_describes_the_machine_and_its_providers(target: Target) -> None:
    answer = target.run(Job(kind="probe"))
    assert answer.sessions == ()
    assert CPU in answer.host.providers
    assert answer.host.cores >= 1
    assert (answer.host.emulator is not None) == target.emulated


def test_every_session_answers_for_every_image_in_order(
    target: Target, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    path = make_mean_model()
    sessions = (Session(model=path, provider=CPU), Session(model=path, provider=CPU, optimization="none"))
    answer = target.run(Job(kind="infer", sessions=sessions, inputs=images, batch_size=3))
    for ran in answer.sessions:
        np.testing.assert_allclose(ran.outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
        assert set(ran.placement.nodes) == {CPU}
        assert ran.placement.elsewhere == ()
    assert [ran.settings["optimization"] for ran in answer.sessions] == ["all", "none"]


def test_a_provider_that_is_not_there_is_unavailable_and_never_another_ones_answer(
    target: Target, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider="CUDAExecutionProvider")
    if "CUDAExecutionProvider" in target.run(Job(kind="probe")).host.providers:
        pytest.skip("this ONNX Runtime has CUDA compiled in: see the tests marked cuda")
    with pytest.raises(UnavailableError) as caught:
        target.run(Job(kind="infer", sessions=(session,), inputs=images))
    assert caught.value.exit_code == 3
    assert caught.value.expected == "CUDAExecutionProvider"


@pytest.mark.parametrize("kind", ["bench", "memory"])
def test_times_exist_only_where_the_cpu_is_real(
    target: Target, kind: str, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = Session(model=make_mean_model(), provider=CPU)
    job = Job(kind=kind, sessions=(session,), inputs=images, batch_size=1, warmup=1, min_duration_s=0, min_rounds=4)
    if target.emulated:
        with pytest.raises(UsageError, match="times do not exist"):
            target.run(job)
        return
    ran = target.run(job).sessions[0]
    if kind == "bench":
        assert len(ran.wall_ns) == len(ran.cpu_ns) == 4
        assert len(ran.warmup_ns) == 1
        assert min(ran.wall_ns) > 0 and ran.load_ns > 0 and ran.first_ns > 0
    else:
        assert 0 < ran.base_bytes <= ran.loaded_bytes <= ran.peak_bytes


def test_progress_ends_at_its_total(target: Target, make_mean_model: Callable[..., Path], images: np.ndarray) -> None:
    seen: list[tuple[str, int, int]] = []
    session = Session(model=make_mean_model(), provider=CPU)
    target.run(
        Job(kind="infer", sessions=(session,), inputs=images),
        lambda *step: seen.append(step),  # type: ignore[arg-type]
    )
    assert seen and seen[-1][1] == seen[-1][2]


def test_a_fake_that_emulates_has_no_times_either(make_mean_model: Callable[..., Path], images: np.ndarray) -> None:
    fake = FakeTarget(answer=answer_mean, emulated=True)
    with pytest.raises(UsageError, match="times do not exist"):
        fake.run(Job(kind="bench", sessions=(Session(model=make_mean_model(), provider=CPU),), inputs=images))
