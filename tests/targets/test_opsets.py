"""A runtime that is too old for a model's opset or IR version is refused by both numbers, here and on a target."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest

from mbdeploy.errors import UnavailableError
from mbdeploy.stages.subject import plan_session, read_subject
from mbdeploy.targets import Job, Session, agent, folder, parse_provider
from mbdeploy.targets.board import far
from mbdeploy.targets.opsets import RELEASES, explain_outdated, find_refusing
from mbdeploy.targets.process import ProcessTarget


def make_session(opset: int = 21, ir_version: int = 10, runtime: str = "onnxruntime") -> Session:
    return Session(
        model=Path("m.onnx"), provider="CPUExecutionProvider", runtime=runtime, opset=opset, ir_version=ir_version
    )


def test_the_table_rises_and_every_row_is_of_a_release_of_onnx() -> None:
    rows = [(*release, takes.opset, takes.ir_version) for release, takes in RELEASES.items()]
    assert rows == sorted(rows)
    assert all(older[2] <= newer[2] and older[3] <= newer[3] for older, newer in itertools.pairwise(rows))
    released = {(opset, ir_version) for _, ir_version, opset, *_ in onnx.helper.VERSION_TABLE}
    assert {(takes.opset, takes.ir_version) for takes in RELEASES.values()} <= released


@pytest.mark.parametrize(
    ("opset", "ir_version", "refusing"),
    [
        (0, 0, None),
        (13, 7, None),
        (13, 8, (1, 8)),
        (17, 8, (1, 11)),
        (18, 8, (1, 13)),
        (18, 10, (1, 17)),
        (21, 10, (1, 17)),
        (22, 10, (1, 20)),
        (23, 11, (1, 22)),
        (24, 11, (1, 23)),
        (18, 13, (1, 23)),
    ],
)
def test_the_newest_release_that_refuses_is_found(opset: int, ir_version: int, refusing: tuple[int, int]) -> None:
    assert find_refusing(opset, ir_version) == refusing


@pytest.mark.parametrize(
    ("version", "found", "todo"),
    [
        (
            "1.17.3",
            "ONNX Runtime 1.17.3, which takes opset 20, IR version 9 at most",
            "install onnxruntime 1.18",
        ),
        ("1.5.2", "ONNX Runtime 1.5.2, which takes opset 13, IR version 7 at most", "1.18 or newer there"),
    ],
)
def test_both_versions_are_named(version: str, found: str, todo: str) -> None:
    error = explain_outdated(make_session(), version, "ssh:board")
    assert error is not None
    assert (error.where, error.exit_code, error.found) == ("ssh:board", 3, found)
    assert error.expected == "an ONNX Runtime for opset 21, IR version 10 (m.onnx)"
    assert todo in error.todo


def test_a_model_that_no_known_release_takes_needs_a_newer_one() -> None:
    error = explain_outdated(make_session(27, 13), "1.23.2", "ssh:board")
    assert error is not None
    assert "install onnxruntime newer than 1.23 there" in error.todo


@pytest.mark.parametrize("version", ["1.18.0", "1.99.0", "2.0", "", "built here"])
def test_a_newer_release_or_one_that_nobody_knows_decides_itself(version: str) -> None:
    assert explain_outdated(make_session(), version, "local") is None
    assert not agent.is_outdated(version, find_refusing(21, 10))


def test_another_runtime_is_not_judged_by_this_table() -> None:
    assert explain_outdated(make_session(runtime="openvino"), "1.10.0", "local") is None


@pytest.mark.parametrize("release", RELEASES)
def test_the_agent_refuses_what_is_explained_here(release: tuple[int, int]) -> None:
    version = f"{release[0]}.{release[1]}.1+cu12"
    for opset, ir_version in ((13, 7), (17, 8), (19, 9), (21, 10), (23, 11), (26, 13)):
        expected = explain_outdated(make_session(opset, ir_version), version, "x") is not None
        told = json.loads(json.dumps(find_refusing(opset, ir_version)))
        assert agent.is_outdated(version, told) == expected


def test_a_file_s_own_versions_travel_to_the_agent(conv_model_file: Path) -> None:
    session = plan_session(read_subject(conv_model_file), parse_provider("cpu"))
    model = onnx.load(conv_model_file)
    assert (session.opset, session.ir_version) == (model.opset_import[0].version, model.ir_version)
    with folder.making(Job(kind="infer", sessions=(session,)), emulated=False, distributions=[]) as place:
        (told,) = json.loads((place / "job.json").read_text())["sessions"]
    assert tuple(told["refusing"]) == find_refusing(session.opset, session.ir_version)


def test_the_agent_refuses_before_it_touches_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "import_onnxruntime", lambda: SimpleNamespace(__version__="1.15.1"))
    with pytest.raises(agent.RefusedError, match=r"onnxruntime 1\.15\.1 takes no model of its opset") as caught:
        agent.OnnxRuntime({"provider": "CPUExecutionProvider", "refusing": [1, 17]}, False)
    assert caught.value.kind == "outdated"


def test_what_the_agent_refuses_is_said_with_both_versions(conv_model_file: Path) -> None:
    session = plan_session(read_subject(conv_model_file), parse_provider("cpu"))
    said = [{"at": [0, "loading"]}, {"refused": "outdated", "cause": "old", "facts": {"onnxruntime": "1.7.0"}}]
    script = "; ".join(f"echo '{json.dumps(line)}'" for line in said)
    target = ProcessTarget(name="docker:old", command=("sh", "-c", f"{script}; exit 1"))
    with pytest.raises(UnavailableError, match=r"docker:old: expected .* opset 18.* found ONNX Runtime 1\.7\.0"):
        target.run(Job(kind="infer", sessions=(session,)))


def test_a_board_reads_its_runtime_s_version_without_importing_it() -> None:
    assert far.read_runtime() == onnxruntime.__version__
