"""The job folder: what lies in it under which names, and what becomes of folders that were left behind."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mbdeploy.errors import ModelError, OutputError
from mbdeploy.targets import Job, Session, folder

CPU = "CPUExecutionProvider"


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "scratch"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def make(*sessions: Session, inputs: np.ndarray | None = None) -> Job:
    return Job(kind="infer", sessions=sessions, inputs=inputs)


def test_one_file_is_placed_once_for_all_its_sessions_and_no_name_of_the_users_is_used(tmp_path: Path) -> None:
    model = tmp_path / "naïve 模型 '; rm -rf $HOME.onnx"
    model.write_bytes(b"model")
    job = make(Session(model=model, provider=CPU), Session(model=model, provider=CPU, optimization="none"))
    with folder.making(job, emulated=False, distributions=["onnxruntime"]) as place:
        names = sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.is_file())
        assert names == [".lock", "agent.py", "job.json", "m0/model.onnx"]
        plain = json.loads((place / "job.json").read_text())
        assert [session["model"] for session in plain["sessions"]] == ["m0/model.onnx"] * 2
        assert [session["optimization"] for session in plain["sessions"]] == ["all", "none"]
        assert plain["distributions"] == ["onnxruntime", "numpy"]
    assert not place.exists()


def test_inputs_arrive_as_they_were(scratch: Path) -> None:
    inputs = np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2)
    with folder.making(make(inputs=inputs), emulated=False, distributions=[]) as place:
        assert np.array_equal(np.load(place / "input.npy"), inputs)


def test_external_data_lies_beside_its_model(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "w.bin").write_bytes(b"weights")
    model = tmp_path / "m.onnx"
    model.write_bytes(b"model")
    job = make(Session(model=model, provider=CPU, companions=("weights/w.bin",)))
    with folder.making(job, emulated=False, distributions=[]) as place:
        assert (place / "m0/weights/w.bin").read_bytes() == b"weights"


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../secret", "missing.bin"])
def test_external_data_may_not_leave_the_models_folder_or_be_missing(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "models").mkdir()
    model = tmp_path / "models" / "m.onnx"
    model.write_bytes(b"model")
    job = make(Session(model=model, provider=CPU, companions=(name,)))
    with (
        pytest.raises(ModelError, match="the model's own folder"),
        folder.making(job, emulated=False, distributions=[]),
    ):
        pass


def test_a_symbolic_link_is_followed_and_a_failing_link_becomes_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real.onnx").write_bytes(b"model")
    (tmp_path / "link.onnx").symlink_to("real.onnx")
    job = make(Session(model=tmp_path / "link.onnx", provider=CPU))
    with folder.making(job, emulated=False, distributions=[]) as place:
        assert (place / "m0/model.onnx").read_bytes() == b"model"
        assert not (place / "m0/model.onnx").is_symlink()

    def refuse(*paths: object) -> None:
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with folder.making(job, emulated=False, distributions=[]) as place:
        assert (place / "m0/model.onnx").read_bytes() == b"model"


def test_folders_of_killed_processes_are_swept_and_those_in_use_are_not(scratch: Path) -> None:
    old = 1_000_000_000
    abandoned = scratch / "mbdeploy-job-dead"
    young = scratch / "mbdeploy-job-young"
    foreign = scratch / "something-else"
    for place in (abandoned, young, foreign):
        place.mkdir()
        (place / ".lock").touch()
    for place in (abandoned, foreign):
        os.utime(place, (old, old))
    with folder.making(make(), emulated=False, distributions=[]) as used:
        os.utime(used, (old, old))
        with folder.making(make(), emulated=False, distributions=[]):
            assert used.exists()
        assert not abandoned.exists()
        assert young.exists() and foreign.exists()


def test_a_full_temporary_folder_is_an_output_error_that_names_it(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*given: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", fill)
    with (
        pytest.raises(OutputError, match="no space left on device") as caught,
        folder.making(make(inputs=np.zeros((1, 3, 2, 2), np.float32)), emulated=False, distributions=[]),
    ):
        pass
    assert caught.value.where == str(scratch)
    assert list(scratch.iterdir()) == []


def test_an_error_while_the_folder_is_used_is_not_taken_for_a_full_disk() -> None:
    with pytest.raises(BrokenPipeError), folder.making(make(), emulated=False, distributions=[]):
        raise BrokenPipeError
