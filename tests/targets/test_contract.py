"""One contract for every target and runtime that is present: this machine, OpenVINO, ssh, emulation, the fake."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.targets import Job, Provider, Session, Target, open_target, parse_provider
from mbdeploy.targets.fake import FakeTarget

CPU = "CPUExecutionProvider"
MakeSession = Callable[..., Session]


def answer_mean(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    return [2 * inputs.mean(axis=(2, 3))]


REAL = ["local", "openvino", pytest.param("ssh", marks=pytest.mark.ssh)]
#: The emulated CPU without VNNI waits for the sweep: test_qemu.py looks at it, too.
EMULATED = {"qemu": [pytest.mark.emulation, pytest.mark.sweep], "arm": [pytest.mark.emulation, pytest.mark.slow]}
#: Where one look at each emulated CPU is enough for a pull request.
AT_NIGHT = [*REAL, "fake", *(pytest.param(name, marks=EMULATED["qemu"]) for name in EMULATED)]


@pytest.fixture(params=[*REAL, "fake", *(pytest.param(name, marks=marks) for name, marks in EMULATED.items())])
def provider(request: pytest.FixtureRequest) -> Provider:
    if request.param in ("qemu", "arm"):
        request.getfixturevalue(f"real_{request.param}")
    if request.param == "openvino":
        request.getfixturevalue("real_openvino")
    words = {"qemu": "cpu@qemu:haswell", "arm": "arm@qemu:cortex-a53", "openvino": "openvino"}
    return parse_provider(words.get(request.param, f"cpu@{request.param}"))


@pytest.fixture
def target(provider: Provider, request: pytest.FixtureRequest) -> Target:
    if provider.target == "ssh":  # (with a configuration of the test's own)
        opened: Target = request.getfixturevalue("board").open()
        return opened
    return FakeTarget(answer=answer_mean) if provider.target == "fake" else open_target(provider)


@pytest.fixture
def make_session(provider: Provider) -> MakeSession:
    """A session of this provider: ``make(model, **more)``."""

    def make(model: Path, **more: object) -> Session:
        fields = {"runtime": provider.runtime, "provider": provider.ep, "provider_options": dict(provider.options)}
        return Session(**{"model": model, **fields, **more})  # type: ignore[arg-type]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("provider", AT_NIGHT, indirect=True)
def test_a_probe_describes_the_machine_and_its_providers(target: Target, provider: Provider) -> None:
    answer = target.run(Job(kind="probe"))
    assert answer.sessions == ()
    assert {CPU, provider.ep} <= set(answer.host.providers)
    assert provider.name not in answer.absent
    assert answer.host.cores >= 1
    assert (answer.host.emulator is not None) == target.emulated


@pytest.mark.slow
def test_every_session_answers_for_every_image_in_order(
    target: Target,
    provider: Provider,
    make_session: MakeSession,
    make_mean_model: Callable[..., Path],
    images: np.ndarray,
) -> None:
    sessions = (make_session(make_mean_model()), make_session(make_mean_model("fixed.onnx", batch=2), threads=2))
    answer = target.run(Job(kind="infer", sessions=sessions, inputs=images, batch_size=3))
    for ran in answer.sessions:
        np.testing.assert_allclose(ran.outputs[0], 2 * images.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
        assert set(ran.placement.nodes) == {provider.ep}
        assert ran.placement.elsewhere == ()
        assert sum(ran.placement.nodes.values()) == len(ran.placement.ran) > 0
        assert {(node.provider, node.type) for node in ran.placement.ran} == {(provider.ep, "float32")}
    assert [ran.settings["threads"] for ran in answer.sessions] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("provider", REAL, indirect=True)
def test_outputs_keep_the_graphs_names_and_order(
    make_session: MakeSession, target: Target, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    job = Job(kind="infer", sessions=(make_session(make_mean_model(outputs=2)),), inputs=images)
    ran = target.run(job).sessions[0]
    assert ran.output_names == ("y0", "y1")
    assert [output.shape for output in ran.outputs] == [(7, 3), (7, 3)]


@pytest.mark.slow
@pytest.mark.parametrize("provider", REAL, indirect=True)
def test_a_graph_that_no_runtime_knows_is_rejected(
    make_session: MakeSession, target: Target, write_model: Callable[..., Path], images: np.ndarray
) -> None:
    path = write_model([helper.make_node("NoSuchOperator", ["x"], ["y"])], "odd.onnx")
    with pytest.raises(StepError, match=r"odd\.onnx.*REJECTED while loading.*NoSuchOperator"):
        target.run(Job(kind="infer", sessions=(make_session(path),), inputs=images))


@pytest.mark.slow
@pytest.mark.parametrize("provider", AT_NIGHT, indirect=True)
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


@pytest.mark.slow
@pytest.mark.parametrize("provider", AT_NIGHT, indirect=True)
@pytest.mark.parametrize("kind", ["bench", "memory"])
def test_times_exist_only_where_the_cpu_is_real(
    target: Target, make_session: MakeSession, kind: str, make_mean_model: Callable[..., Path], images: np.ndarray
) -> None:
    session = make_session(make_mean_model())
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


@pytest.mark.slow
@pytest.mark.parametrize("provider", AT_NIGHT, indirect=True)
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
