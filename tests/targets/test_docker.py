"""Containers: what Docker is asked for, and what comes of it. A program stands in for Docker's client."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mbdeploy.errors import StepError, UnavailableError, UsageError
from mbdeploy.targets import Job, Session, docker, open_target, parse_provider

CPU = "CPUExecutionProvider"
# It keeps its calls in a file, and runs the container's command in the folder that is shared with it.
CLIENT = """#!{python}
import os, subprocess, sys
words = sys.argv[1:]
with open({calls!r}, "a") as file:
    file.write("\\t".join(words) + "\\n")
if words[0] == "version":
    {version}
elif words[0] == "run":
    shared = words[words.index("--volume") + 1].rpartition(":")[0]
    command = words[words.index("python") + 1:]
    sys.exit({run} or subprocess.call([sys.executable, *command], cwd=shared))
elif words[0] == "build":
    with open({calls!r}, "a") as file:
        file.write(sys.stdin.read())
"""


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a client on the search path, whose server has this architecture; the file of its calls."""

    def make(arch: str = "amd64", *, run: str = "0", version: str = "") -> Path:
        calls = tmp_path / "calls"
        said = version or f"print({arch!r})"
        program = tmp_path / "bin" / "docker"
        program.parent.mkdir(exist_ok=True)
        program.write_text(CLIENT.format(python=sys.executable, calls=str(calls), version=said, run=run))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return calls

    return make


@pytest.fixture
def job(make_mean_model: Callable[..., Path], images: np.ndarray) -> Job:
    return Job(kind="infer", sessions=(Session(model=make_mean_model(), provider=CPU),), inputs=images)


def read_calls(calls: Path) -> list[list[str]]:
    return [line.split("\t") for line in calls.read_text().splitlines()]


def test_the_agent_runs_in_a_container_of_its_own_without_a_network(client, job, images):
    calls = client()
    answer = open_target(parse_provider("cpu@docker:me/image:1")).run(job)
    np.testing.assert_allclose(answer.sessions[0].outputs[0], 2 * images.mean(axis=(2, 3)), atol=1e-6)
    assert answer.host.emulator == "linux/arm64 on amd64, by binfmt_misc"
    words = read_calls(calls)[-1]
    assert words[:3] == ["run", "--rm", "--init"]
    assert words[words.index("--platform") + 1] == "linux/arm64"
    assert words[words.index("--network") + 1] == "none"
    assert words[-4:] == ["me/image:1", "python", "agent.py", "."]


def test_times_exist_where_the_host_itself_is_arm64(client, job):
    client("arm64")
    target = docker.open_docker("image")
    assert not target.emulated
    assert target.run(Job(kind="memory", sessions=job.sessions, inputs=job.inputs)).sessions[0].peak_bytes > 0
    client("amd64")
    with pytest.raises(UsageError, match="times do not exist"):
        docker.open_docker("image").run(Job(kind="bench", sessions=job.sessions, inputs=job.inputs))


def test_no_container_is_left_by_a_run_that_fails(client, job):
    calls = client(run="7")
    with pytest.raises(StepError, match="an agent that starts"):
        docker.open_docker("image").run(job)
    *_, run, kill = read_calls(calls)
    assert kill == ["kill", run[run.index("--name") + 1]]


@pytest.mark.parametrize("argument", ["-v", "--privileged", "a b", "x;y", "../a"])
def test_what_is_no_image_is_refused_before_docker_hears_of_it(client, argument):
    calls = client()
    with pytest.raises(UsageError, match="expected an image"):
        docker.open_docker(argument)
    assert not calls.exists()


def test_without_docker_or_its_server_the_target_is_not_here(client, tmp_path, monkeypatch):
    client(version="sys.exit('Cannot connect to the Docker daemon')")
    with pytest.raises(UnavailableError, match="Cannot connect to the Docker daemon"):
        docker.open_docker("image")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="no docker that starts"):
        docker.open_docker("image")


def test_the_image_is_built_with_the_versions_that_are_here(client):
    calls = client()
    image = docker.build_image("python:3.11-slim")
    version = docker.find_onnxruntime()
    assert image == f"mbdeploy-arm64:onnxruntime-{version}" == docker.open_docker("").image
    recipe = calls.read_text()
    assert "FROM --platform=linux/arm64 python:3.11-slim\n" in recipe
    assert f"onnxruntime=={version} numpy=={np.__version__}\n" in recipe
