"""Checking a folder: what is missing, changed, orphaned or stale is said, and nothing of that passes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from made_files import FILES, make_file

from mbdeploy import artifact
from mbdeploy.cli import program
from mbdeploy.errors import DataError
from mbdeploy.provenance.checking import verify_artifacts
from mbdeploy.provenance.manifest import MANIFEST, describe_folder, read_manifest, vouch_for_folder, vouch_for_result
from mbdeploy.results import ModelRef


def find_faults(folder: Path) -> dict[str, tuple[str, str]]:
    return {one.file: (one.state, one.detail) for one in verify_artifacts(folder).findings if one.state != "holds"}


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_folder_as_it_was_made_holds_with_and_without_a_manifest(made: Path) -> None:
    assert find_faults(made) == {}
    vouch_for_folder(made)
    report = verify_artifacts(made)
    assert report.holds and report.manifest and report.signed is None
    assert [one.file for one in report.findings] == sorted(FILES)


def test_a_folder_that_was_moved_and_touched_holds(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "elsewhere")
    os.utime(tmp_path / "elsewhere/int8.onnx", (4e9, 4e9))  # the year 2096
    assert find_faults(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize("name", FILES)
def test_a_byte_that_was_changed_is_found_though_size_and_time_are_the_same(folder: Path, name: str) -> None:
    assert verify_artifacts(folder).holds
    path = folder / name
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    faults = find_faults(folder)
    assert faults[name] == ("changed", "other bytes than its sidecar vouches for")
    assert {state for file, (state, _) in faults.items() if file != name} <= {"stale"}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_is_missing(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert find_faults(folder)[name] == ("missing", "its sidecar is there")
    artifact.sidecar_path(folder / name).unlink()
    assert find_faults(folder)[name] == ("missing", "the manifest names it")


def test_a_sidecar_that_is_gone_torn_or_edited_is_said(folder: Path) -> None:
    beside = artifact.sidecar_path(folder / "int8.onnx")
    whole = beside.read_bytes()
    edit_json(beside, record={"max_abs": 0.0})  # a record is vouched for by the manifest alone
    assert find_faults(folder)["int8.onnx"] == ("changed", "its sidecar is not the one of the manifest")
    edit_json(beside, key="0" * 64)
    assert find_faults(folder)["int8.onnx"] == ("changed", "its sidecar was edited")
    beside.write_bytes(whole[:-20])
    assert find_faults(folder)["int8.onnx"] == ("changed", "its sidecar cannot be read")
    beside.unlink()
    assert find_faults(folder)["int8.onnx"] == ("missing", "its sidecar is gone")


@pytest.mark.parametrize("name", ["other.onnx", "golden2.npz", "results/evaluation.json"])
def test_a_file_that_nobody_vouches_for_is_orphaned(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{}")
    assert find_faults(folder) == {name: ("orphaned", "no sidecar vouches for it")}


def test_notes_of_the_user_and_hidden_files_are_nobody_s_business(folder: Path) -> None:
    for name in ("notes.txt", ".lock", "table.json", "int8.onnx.bak"):
        (folder / name).write_bytes(b"")
    assert find_faults(folder) == {}


def test_what_was_made_from_a_file_that_was_made_again_is_stale(made: Path) -> None:
    make_file(made, "fp32.onnx", b"another network")
    assert find_faults(made) == {
        "simplified.onnx": ("stale", "made from another fp32.onnx"),
        "results/parity.json": ("stale", "made from another fp32.onnx"),
    }
    vouch_for_folder(made)
    assert "simplified.onnx" in find_faults(made)
    for name in ("simplified.onnx", "int8.onnx", "results/parity.json", "report.md"):
        make_file(made, name, f"{name} again".encode())
    vouch_for_folder(made)
    assert find_faults(made) == {}


def test_what_was_made_from_a_file_that_is_gone_is_stale(made: Path) -> None:
    for path in (made / "golden.npz", made / "golden.npz.json"):
        path.unlink()
    assert find_faults(made) == {"simplified.onnx": ("stale", "made from golden.npz, which is gone")}


def test_what_came_after_the_manifest_is_stale_until_a_run_says_it_again(folder: Path) -> None:
    make_file(folder, "report.md", b"another report")
    shutil.copy(folder / "golden.npz", folder / "results/more.json")
    artifact.write_sidecar(
        folder / "results/more.json", artifact.Provenance(stage="x", params={}, parents={}, tools={}), None
    )
    assert find_faults(folder) == {
        "report.md": ("stale", "made again after the manifest"),
        "results/more.json": ("stale", "made after the manifest"),
    }
    vouch_for_folder(folder)
    assert find_faults(folder) == {}


def test_a_result_that_a_command_saves_names_the_models_that_it_is_of(folder: Path) -> None:
    digest = artifact.hash_file(folder / "int8.onnx")
    ref = ModelRef(name="int8", path="int8.onnx", sha256=digest, size_bytes=9)
    result = {"models": [{"model": ref}, {"model": ref}]}
    artifact.write_json(folder / "results/evaluation.json", result)
    vouch_for_result(folder / "results/evaluation.json", result)
    vouch_for_folder(folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    parents = manifest.artifacts["results/evaluation.json"].parents
    assert [(role, one.file) for role, one in parents.items()] == [("model 0", "int8.onnx")]
    make_file(folder, "int8.onnx", b"another")
    assert find_faults(folder)["results/evaluation.json"] == ("stale", "made from another int8.onnx")


def test_the_manifest_says_where_each_file_comes_from(folder: Path) -> None:
    manifest = read_manifest(folder)
    assert manifest is not None and manifest == describe_folder(folder)
    entry = manifest.artifacts["int8.onnx"]
    assert (entry.stage, entry.sha256) == ("quantize", artifact.hash_file(folder / "int8.onnx"))
    assert entry.sidecar_sha256 == artifact.hash_file(folder / "int8.onnx.json")
    assert [(role, one.file) for role, one in entry.parents.items()] == [
        ("calibration", ""),
        ("model", "simplified.onnx"),
    ]
    assert manifest.tools == {"onnx": "1.21.0"}
    assert set(manifest.host) == {"machine", "system", "python"}


def test_a_manifest_of_another_host_stays_while_the_files_do(folder: Path) -> None:
    edit_json(folder / MANIFEST, host={"machine": "armv7l"})
    there = (folder / MANIFEST).read_bytes()
    vouch_for_folder(folder)
    assert (folder / MANIFEST).read_bytes() == there
    make_file(folder, "report.md", b"another")
    vouch_for_folder(folder)
    assert (folder / MANIFEST).read_bytes() != there


@pytest.mark.parametrize("text", ["", "{", "[]", '{"artifacts": 1}', '{"artifacts": {"../x": {}}, "tools": {}}'])
def test_a_manifest_that_is_none_is_refused(folder: Path, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    with pytest.raises(DataError, match="expected a manifest"):
        verify_artifacts(folder)
    vouch_for_folder(folder)
    assert find_faults(folder) == {}


def test_a_manifest_that_names_a_file_outside_is_refused(folder: Path) -> None:
    plain = json.loads((folder / MANIFEST).read_text())
    plain["artifacts"]["../secret"] = plain["artifacts"]["int8.onnx"]
    (folder / MANIFEST).write_text(json.dumps(plain))
    with pytest.raises(DataError, match="lies outside"):
        verify_artifacts(folder)


def test_the_command_ends_in_0_1_or_2_and_says_which_file(folder: Path, tmp_path: Path) -> None:
    def call(*args: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(program, ["verify-artifacts", *args])
        return done.exit_code, done.stdout, done.stderr

    code, said, _ = call(str(folder))
    assert code == 0 and "6 of 6 files are what was made." in said
    (folder / "int8.onnx").write_bytes(b"x")
    code, said, _ = call(str(folder), "--format", "json")
    states = {one["file"]: one["state"] for one in json.loads(said)["findings"]}
    assert code == 1 and states["int8.onnx"] == "changed" and states["fp32.onnx"] == "holds"
    for place in (tmp_path / "nowhere", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        code, said, complaint = call(str(place))
        assert (code, said) == (2, "") and "expected an output folder of mbdeploy" in complaint
