"""What becomes of an agent that crashes, hangs, lies or never starts: programs that play the agent."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mbdeploy.errors import StepError, UnavailableError
from mbdeploy.targets import Job, Session
from mbdeploy.targets.process import ProcessTarget
from mbdeploy.watch import PARENT, REACHING_ENVIRONMENT, find_network_bar

CPU = "CPUExecutionProvider"
AT = '{"at": [0, "running"]}'


@pytest.fixture
def job(make_mean_model: Callable[..., Path], images: np.ndarray) -> Job:
    return Job(kind="infer", sessions=(Session(model=make_mean_model(), provider=CPU),), inputs=images)


def play(script: str) -> ProcessTarget:
    return ProcessTarget(name="local", command=("sh", "-c", script))


@pytest.mark.parametrize(
    ("script", "found"),
    [
        (f"echo '{AT}'; kill -SEGV $$", "CRASHED while running: killed by SIGSEGV"),
        (f"echo '{AT}'; echo std::bad_alloc >&2; kill -ABRT $$", "OOM while running"),
        (f"echo '{AT}'; exit 0", "TRANSPORT while running: the agent ended well but left no result"),
        (f"echo '{AT}'; echo 'oh no' >&2; exit 3", "REJECTED while running: oh no"),
        ('echo \'{"at": [0, "loading"]}\'; kill -SEGV $$', "CRASHED while loading"),
    ],
)
def test_an_agent_that_ends_badly_gives_a_verdict_on_the_model_it_had(job: Job, script: str, found: str) -> None:
    with pytest.raises(StepError) as caught:
        play(script).run(job)
    assert caught.value.where == str(job.sessions[0].model)
    assert found in caught.value.found


def test_an_agent_that_hangs_is_stopped_with_all_its_children(job: Job, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with pytest.raises(StepError, match="TIMEOUT while running"):
        play(f"echo '{AT}'; sleep 60 & echo $! > '{note}'; wait").run(msgspec.structs.replace(job, wall_s=0.5))
    status = Path(f"/proc/{int(note.read_text())}/status")
    end = time.monotonic() + 20  # a process that was killed is still there until it has been scheduled once more
    while status.exists() and "State:\tZ" not in status.read_text():
        assert time.monotonic() < end, "the child of the agent lives on"
        time.sleep(0.01)


def test_an_agent_that_dies_before_any_model_is_not_blamed_on_one(job: Job) -> None:
    with pytest.raises(StepError, match="starting the agent") as caught:
        play("exit 1").run(job)
    assert caught.value.where == "local"


def test_a_program_that_is_not_there_makes_the_target_unavailable(job: Job) -> None:
    with pytest.raises(UnavailableError, match="no such program"):
        ProcessTarget(name="local", command=("/no/such/python",)).run(job)


@pytest.mark.parametrize("measured", [True, False])
def test_only_a_command_that_starts_the_agent_elsewhere_is_shown_the_way_there(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: bool
) -> None:
    for name in sorted(REACHING_ENVIRONMENT):
        monkeypatch.setenv(name, "/run/user/1000/x")
    note = tmp_path / "note"
    with pytest.raises(StepError):
        msgspec.structs.replace(play(f"env > '{note}'; exit 1"), measured=measured).run(job)
    names = {line.partition("=")[0] for line in note.read_text().splitlines()}
    assert (names & REACHING_ENVIRONMENT == REACHING_ENVIRONMENT) is not measured
    assert (REACHING_ENVIRONMENT.isdisjoint(names), PARENT in names) == (measured, measured)


@pytest.mark.skipif(bool(find_network_bar()), reason="the system does not permit network namespaces here")
def test_an_emulated_agent_has_no_network(job: Job, tmp_path: Path) -> None:
    note = tmp_path / "note"
    with pytest.raises(StepError):
        msgspec.structs.replace(play(f"cat /proc/net/dev > '{note}'; exit 1"), emulator="a CPU").run(job)
    assert [line.split(":")[0].strip() for line in note.read_text().splitlines()[2:]] == ["lo"]


def test_nothing_is_left_in_the_temporary_folder_whatever_happens(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(StepError):
        play("exit 1").run(job)

    def interrupt(*step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        play('echo \'{"progress": ["running", 1, 2]}\'; sleep 60').run(job, interrupt)
    kept = ProcessTarget(name="local", command=(sys.executable,)).run(job).sessions[0].outputs[0]
    assert list(folder.iterdir()) == []
    assert np.isfinite(kept).all()


def test_why_a_provider_could_not_be_made_is_taken_from_standard_error(job: Job) -> None:
    facts = '{"providers": ["X"], "versions": {}, "nvidia_devices": [], "nvidia_driver": false}'
    script = (
        f"echo '{AT}'; printf '\\033[0;93m2026-11-22 02:04:13.6 [W:onnxruntime:Default, a.cc:1 F] "
        "Failed to create X provider: no library\\033[m\\nanother line\\n' >&2; "
        f'echo \'{{"refused": "unavailable", "cause": "fell back", "facts": {facts}}}\'; exit 1'
    )
    with pytest.raises(UnavailableError, match=r"fell back \(Failed to create X provider: no library\)"):
        play(script).run(Job(kind="infer", sessions=(Session(model=job.sessions[0].model, provider="X"),)))
