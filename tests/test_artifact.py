"""Files that stages make: whole or not at all, vouched for by their sidecar, one writer a folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.errors import DataError, OutputError

PROVENANCE = Provenance(
    stage="export",
    params={"opset": 18, "card": {"b": 1, "a": [1, 2]}},
    parents={"model": "0" * 64},
    tools={"onnx": "1"},
)


def run_python(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a program with this process's import path, so that it finds the package as we do."""
    prologue = f"import sys; sys.path[:] = {sys.path!r}\n"
    argv = [sys.executable, "-c", prologue + textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_vouched(path: Path, data: bytes = b"model") -> None:
    artifact.write_bytes(path, data)
    artifact.write_sidecar(path, PROVENANCE, {"opset": 18})


@pytest.mark.parametrize(
    "name", ["fp32.onnx", "a b.onnx", 'it\'s "quoted" $(x) `y`.onnx', "模型.onnx", "-o.onnx", "%s{0}.onnx"]
)
def test_a_file_of_any_name_is_written_whole_with_its_sidecar(tmp_path: Path, name: str) -> None:
    path = tmp_path / "new" / "文件 夹" / name
    write_vouched(path)
    assert path.read_bytes() == b"model"
    assert list_names(path.parent) == sorted([name, name + ".json"])
    assert artifact.is_fresh(path, PROVENANCE)


def test_the_sidecar_says_what_the_file_is_and_how_it_came_to_be(tmp_path: Path) -> None:
    path = tmp_path / "fp32.onnx"
    artifact.write_bytes(path, b"model")
    artifact.write_sidecar(path, PROVENANCE, {"max_abs": 0.5})
    written = artifact.read_sidecar(path)
    assert written is not None
    assert (written.file, written.size_bytes) == ("fp32.onnx", 5)
    assert written.sha256 == hashlib.sha256(b"model").hexdigest() == artifact.digest_file(path)
    assert (written.key, written.provenance) == (PROVENANCE.key, PROVENANCE)
    assert msgspec.json.decode(written.record) == {"max_abs": 0.5}
    assert json.loads(artifact.sidecar_path(path).read_text())["schema_version"] == 1


@pytest.mark.parametrize(
    "exception", [ValueError("no"), KeyboardInterrupt(), OSError(errno.EIO, "error", "/elsewhere")]
)
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, exception: BaseException) -> None:
    path = tmp_path / "fp32.onnx"
    artifact.write_bytes(path, b"old")
    with pytest.raises(type(exception)), artifact.writing(path) as temporary:
        temporary.write_bytes(b"half")
        raise exception
    assert list_names(tmp_path) == ["fp32.onnx"]
    assert path.read_bytes() == b"old"


def test_a_writer_killed_in_the_middle_leaves_the_old_file_and_its_rest_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "fp32.onnx"
    artifact.write_bytes(path, b"old")
    killed = run_python(
        """
        import os, signal
        from pathlib import Path
        from mbdeploy import artifact
        with artifact.writing(Path(sys.argv[1])) as temporary:
            temporary.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    assert killed.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert len(list_names(path.parent)) == 2
    with artifact.lock_folder(tmp_path):
        assert list_names(path.parent) == ["fp32.onnx"]


@pytest.mark.parametrize("exception", [None, ValueError("no"), KeyboardInterrupt()])
def test_a_scratch_folder_is_gone_with_all_that_it_holds_however_the_work_ends(
    tmp_path: Path, exception: BaseException | None
) -> None:
    final = tmp_path / "new" / "int8.onnx"
    with contextlib.suppress(ValueError, KeyboardInterrupt), artifact.lending_folder(final) as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "0_0.npy").write_bytes(b"x")
        assert list_names(final.parent) == [folder.name]
        if exception is not None:
            raise exception
    assert list_names(final.parent) == []


def test_a_scratch_folder_is_empty_though_a_killed_process_of_the_same_number_left_one(tmp_path: Path) -> None:
    with artifact.lending_folder(tmp_path / "int8.onnx") as folder:
        name = folder.name
    (tmp_path / name / "deep").mkdir(parents=True)
    (tmp_path / name / "wanted_0.f32").write_bytes(b"old")
    with artifact.lending_folder(tmp_path / "int8.onnx") as folder:
        assert folder.name == name
        assert list_names(folder) == []


def test_what_killed_runs_left_is_cleared_at_every_depth(tmp_path: Path) -> None:
    kept = tmp_path / "kept" / "notes.txt"
    artifact.write_bytes(kept, b"mine")
    program = """
        import os, signal
        from pathlib import Path
        from mbdeploy import artifact
        final = Path(sys.argv[1])
        with artifact.writing(final) as temporary, artifact.lending_folder(final) as folder:
            temporary.write_bytes(b"half")
            (folder / "0_0.npy").write_bytes(b"scratch")
            (folder / ".1_0.1.mbdeploy-tmp").write_bytes(b"scratch")
            (folder / "deep").mkdir()
            os.kill(os.getpid(), signal.SIGKILL)
        """
    for depth in ("int8.onnx", "a/int8.onnx", "a/b/int8.onnx"):
        assert run_python(program, tmp_path / depth).returncode == -signal.SIGKILL
    assert len(list_names(tmp_path / "a")) == 3
    with artifact.lock_folder(tmp_path):
        assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [tmp_path / ".lock", kept]
        assert list_names(tmp_path / "a" / "b") == []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX links")
def test_a_leftover_that_is_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    other, folder = tmp_path / "other", tmp_path / "out"
    artifact.write_bytes(other / "mine.txt", b"mine")
    folder.mkdir()
    (folder / ".int8.onnx.99999999.scratch.mbdeploy-tmp").symlink_to(other, target_is_directory=True)
    with artifact.lock_folder(folder):
        assert list_names(folder) == [".lock"]
    assert list_names(other) == ["mine.txt"]


def test_a_scratch_folder_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with (
        pytest.raises(OutputError, match="expected a place that can be written") as caught,
        artifact.lending_folder(tmp_path / "out" / "int8.onnx"),
    ):
        pytest.fail("the work began")
    assert caught.value.where == str(tmp_path / "out" / "int8.onnx")


def test_a_body_that_writes_nothing_is_an_error_and_not_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError), artifact.writing(tmp_path / "fp32.onnx"):
        pass
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    path = tmp_path / "fp32.onnx"
    artifact.write_bytes(path, b"old")
    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    with pytest.raises(OutputError, match=r"expected room to write, found .*; free some space") as caught:
        artifact.write_bytes(path, b"new")
    monkeypatch.undo()
    assert caught.value.where == str(path)
    assert list_names(tmp_path) == ["fp32.onnx"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path) -> None:
    done = run_python(
        """
        import resource
        from pathlib import Path
        from mbdeploy import artifact, errors
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        try:
            artifact.write_bytes(Path(sys.argv[1]), bytes(1 << 20))
        except errors.OutputError as error:
            print(error.expected)
        """,
        tmp_path / "fp32.onnx",
    )
    assert (done.stdout, done.stderr) == ("room to write\n", "")
    assert list_names(tmp_path) == []


@pytest.mark.parametrize("depth", ["out/fp32.onnx", "out/a/b/fp32.onnx"])
def test_a_file_in_the_place_of_the_folder_is_an_output_error(tmp_path: Path, depth: str) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="expected a place that can be written") as caught:
        artifact.write_bytes(tmp_path / depth, b"x")
    assert caught.value.where == str(tmp_path / depth)
    with pytest.raises(OutputError), artifact.lock_folder((tmp_path / depth).parent):
        pass


def test_a_folder_in_the_place_of_the_file_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "fp32.onnx").mkdir()
    with pytest.raises(OutputError, match="expected a place that can be written"):
        artifact.write_bytes(tmp_path / "fp32.onnx", b"x")
    assert list_names(tmp_path) == ["fp32.onnx"]


@pytest.mark.parametrize("missing", ["out", "out/a/b"])
def test_a_folder_that_may_not_be_made_is_an_output_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Root may write anywhere, so the refusal is simulated where the system would give it."""
    make = Path.mkdir

    def refuse(path: Path, *arguments: Any, **keywords: Any) -> None:
        if path == tmp_path / "out":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        make(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OutputError, match="permission denied; choose another place with --output"):
        artifact.write_bytes(tmp_path / missing / "fp32.onnx", b"x")
    with pytest.raises(OutputError, match="permission denied"), artifact.lock_folder(tmp_path / missing):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder in which nobody may make files")
def test_a_folder_that_takes_no_files_is_found_before_the_work_is_done() -> None:
    with (
        pytest.raises(OutputError, match="expected a place that can be written"),
        artifact.writing(Path("/proc/a.onnx")),
    ):
        pytest.fail("the work began")


def test_a_failure_that_is_not_about_the_output_keeps_its_own_type(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), artifact.writing(tmp_path / "fp32.onnx"):
        raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
    with pytest.raises(FileNotFoundError), artifact.lock_folder(tmp_path):
        (tmp_path / "not here").read_bytes()
    with pytest.raises(FileNotFoundError), artifact.lock_folder(tmp_path / "a"):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(tmp_path / "a"))


def touch(path: Path) -> None:
    os.utime(path, (0, 0))


def corrupt(path: Path) -> None:
    path.write_bytes(b"MODEL")


def grow(path: Path) -> None:
    path.write_bytes(b"model!")


def cut_sidecar(path: Path) -> None:
    sidecar = artifact.sidecar_path(path)
    sidecar.write_bytes(sidecar.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("change", "fresh"),
    [
        (touch, True),
        (corrupt, False),
        (grow, False),
        (Path.unlink, False),
        (cut_sidecar, False),
        (lambda path: artifact.sidecar_path(path).unlink(), False),
        (lambda path: artifact.sidecar_path(path).write_text("{}"), False),
        (lambda path: artifact.sidecar_path(path).write_bytes(b"\xff\x00"), False),
    ],
)
def test_a_file_is_fresh_only_while_its_bytes_are_those_vouched_for(
    tmp_path: Path, change: Callable[[Path], None], fresh: bool
) -> None:
    path = tmp_path / "fp32.onnx"
    write_vouched(path)
    assert artifact.is_fresh(path, PROVENANCE)
    change(path)
    assert artifact.is_fresh(path, PROVENANCE) is fresh


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "simplify"},
        {"params": {"opset": 17, "card": {"b": 1, "a": [1, 2]}}},
        {"params": {"opset": 18, "card": {"b": 1, "a": [2, 1]}}},
        {"params": {"opset": "18", "card": {"b": 1, "a": [1, 2]}}},
        {"params": {"opset": 18}},
        {"parents": {"model": "1" * 64}},
        {"parents": {"golden": "0" * 64}},
        {"tools": {"onnx": "2"}},
        {"tools": {}},
    ],
)
def test_any_change_of_what_went_in_makes_a_file_stale(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "fp32.onnx"
    write_vouched(path)
    assert not artifact.is_fresh(path, msgspec.structs.replace(PROVENANCE, **change))


@given(st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4) | st.booleans(), max_size=5))
def test_the_key_does_not_depend_on_the_order_of_the_parameters(params: dict[str, Any]) -> None:
    one = Provenance(stage="s", params={"in": params}, parents={}, tools={})
    other = Provenance(stage="s", params={"in": dict(reversed(params.items()))}, parents={}, tools={})
    assert one.key == other.key


def test_an_absent_tool_is_said_to_be_absent() -> None:
    tools = artifact.read_tools("numpy", "no-such-distribution")
    assert list(tools) == ["mbdeploy", "numpy", "no-such-distribution"]
    assert tools["no-such-distribution"] == "absent"
    assert tools["numpy"][0].isdigit()


def test_a_second_process_is_told_that_the_folder_is_in_use(tmp_path: Path) -> None:
    program = """
        from pathlib import Path
        from mbdeploy import artifact, errors
        try:
            with artifact.lock_folder(Path(sys.argv[1])):
                print("got it")
        except errors.OutputError as error:
            print(error)
        """
    with artifact.lock_folder(tmp_path):
        refused = run_python(program, tmp_path)
    assert refused.stdout == (
        f"{tmp_path}: expected an output folder that no other mbdeploy uses now, found a lock held by another "
        "process; wait for it to end, or choose another folder with --output\n"
    )
    assert run_python(program, tmp_path).stdout == "got it\n"


def test_a_lock_is_given_back_when_its_holder_fails_or_is_killed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), artifact.lock_folder(tmp_path):
        raise ZeroDivisionError
    killed = run_python(
        """
        import os, signal
        from pathlib import Path
        from mbdeploy import artifact
        with artifact.lock_folder(Path(sys.argv[1])):
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path,
    )
    assert killed.returncode == -signal.SIGKILL
    with artifact.lock_folder(tmp_path):
        pass


def test_the_lock_of_another_folder_that_is_held_is_not_taken_for_ours(tmp_path: Path) -> None:
    outer, inner = tmp_path / "outer", tmp_path / "inner"
    with artifact.lock_folder(inner), pytest.raises(OutputError) as caught:  # noqa: SIM117
        with artifact.lock_folder(outer), artifact.lock_folder(inner):
            pass
    assert caught.value.where == str(inner)


def test_json_is_written_in_a_form_that_people_read(tmp_path: Path) -> None:
    artifact.write_json(tmp_path / "a.json", PROVENANCE)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert text.startswith('{\n "stage": "export",\n')
    assert text.endswith("}\n")


def test_a_result_that_is_fresh_is_not_made_again_and_one_that_is_not_is(tmp_path: Path) -> None:
    path, made = tmp_path / "r.json", iter(range(9))
    first, second = (Provenance(stage="s", params={"n": n}, parents={}, tools={}) for n in (1, 2))
    kept = [artifact.keep_result(path, one, list[int], lambda: [next(made)]) for one in (first, first, second)]
    assert kept == [[0], [0], [1]]
    assert artifact.is_fresh(path, second)


@pytest.mark.parametrize("content", [None, b"", b"{", b'["a"]'])
def test_a_result_that_cannot_be_read_is_an_error_that_names_it(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "r.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"r\.json: expected a result as this version of mbdeploy writes it"):
        artifact.read_result(path, list[int])


def test_files_that_are_not_those_of_the_beginning_are_refused_by_both_digests() -> None:
    artifact.check_digest(DataError, "photos", "a" * 64, "a" * 64)
    with pytest.raises(DataError, match=r"photos: expected .*bbbbbbbbbbbb….*found others .*aaaaaaaaaaaa…"):
        artifact.check_digest(DataError, "photos", "a" * 64, "b" * 64)
