"""Faults of the world around us: a disk that fills up, writers side by side, folders that go away, clocks that jump."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.cli import end_with_code
from mbdeploy.cli.screen import Screen
from mbdeploy.errors import OutputError

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits and users as Linux has them")
PROLOGUE = """
import errno, os, resource, sys
from pathlib import Path
from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.errors import MbdeployError, OutputError
folder, number = Path(sys.argv[1]), int(sys.argv[2])
"""


def start(program: str, folder: Path, number: int = 0) -> subprocess.Popen[str]:
    """Start a program that has ``folder`` and ``number``, with this process's import path."""
    code = f"import sys; sys.path[:] = {sys.path!r}\n" + PROLOGUE + textwrap.dedent(program)
    argv = [sys.executable, "-c", code, str(folder), str(number)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    said, complaint = process.communicate(timeout=300)
    assert process.returncode == 0, complaint
    return said


def list_leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if "mbdeploy-tmp" in path.name]


WRITER = """
for turn in range({turns}):
    name = f"{{turn % 5}}.bin"
    data = bytes([number]) * (5000 + 977 * ((number + turn) % 7))
    provenance = Provenance(stage=f"writer {{number}}", params={{"turn": turn}}, parents={{}}, tools={{}})
    {guard}
        artifact.write_bytes(folder / name, data)
        artifact.write_sidecar(folder / name, provenance, None)
"""


@pytest.mark.slow
@pytest.mark.parametrize("turns", [10, pytest.param(100, marks=pytest.mark.sweep)])
@pytest.mark.parametrize("guard", ["with artifact.lock_folder(folder, wait_s=300):", "if True:"])
def test_eight_writers_on_one_folder_tear_nothing(tmp_path: Path, turns: int, guard: str) -> None:
    """With the lock every sidecar is its file's; without it one may be another writer's, and then nothing is fresh."""
    writers = [start(WRITER.format(turns=turns, guard=guard), tmp_path, number) for number in range(1, 9)]
    for writer in writers:
        finish(writer)
    assert list_leftovers(tmp_path) == []
    for name in ("0.bin", "1.bin", "2.bin", "3.bin", "4.bin"):
        data = (tmp_path / name).read_bytes()
        assert data == data[:1] * len(data) and len(data) >= 5000  # one writer's, whole
        sidecar = artifact.read_sidecar(tmp_path / name)
        assert sidecar is not None
        fits = sidecar.sha256 == hashlib.sha256(data).hexdigest()
        assert artifact.is_fresh(tmp_path / name, sidecar.provenance) is fits
        if "lock" in guard:
            assert fits and sidecar.provenance.stage == f"writer {data[0]}"


def test_threads_that_write_one_file_do_not_share_a_temporary_one(tmp_path: Path) -> None:
    with artifact.writing(tmp_path / "a") as first, artifact.writing(tmp_path / "a") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert (tmp_path / "a").read_bytes() == b"first"
    assert list_leftovers(tmp_path) == []


def test_a_run_that_takes_the_folder_leaves_what_another_process_is_writing_there(tmp_path: Path) -> None:
    program = """
    with artifact.writing(folder / "int8.onnx") as temporary, artifact.lending_folder(folder / "int8.onnx") as scratch:
        temporary.write_bytes(b"half")
        (scratch / "part").write_bytes(b"")
        print("writing", flush=True)
        sys.stdin.readline()
        (scratch / "part").unlink()
    """
    code = f"import sys; sys.path[:] = {sys.path!r}\n" + PROLOGUE + textwrap.dedent(program)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == "writing\n"
        with artifact.lock_folder(tmp_path):
            assert len(list_leftovers(tmp_path)) == 2
        writer.communicate("go on\n", timeout=60)
    assert writer.returncode == 0
    assert (tmp_path / "int8.onnx").read_bytes() == b"half"


@LINUX
def test_a_disk_that_is_full_at_any_of_fifty_points_tears_nothing(tmp_path: Path) -> None:
    """Room for so many bytes in a file, from none to more than any needs: the old file or the new one, never a part."""
    said = finish(
        start(
            """
            path, failed = folder / "a.bin", 0
            provenance = [Provenance(stage="s", params={"k": k}, parents={}, tools={}) for k in (0, 1)]
            def write(k, size):
                artifact.write_bytes(path, bytes([k]) * size)
                artifact.write_sidecar(path, provenance[k], {"text": "x" * 2000})
            for room in range(0, 5000, 100):
                write(0, 3000)
                hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
                try:
                    write(1, 4000)
                except OutputError as error:
                    failed += 1
                    if "room to write" not in str(error):
                        raise
                finally:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                data = path.read_bytes()
                if data not in (b"\\0" * 3000, b"\\1" * 4000):
                    raise ValueError("torn")
                if artifact.is_fresh(path, provenance[0]) != (data[0] == 0) or artifact.read_sidecar(path) is None:
                    raise ValueError("a sidecar vouches for another file")
                if [one for one in os.listdir(folder) if "tmp" in one]:
                    raise ValueError("a leftover")
            print(failed)
            """,
            tmp_path,
        )
    )
    assert 40 <= int(said) < 50


def test_a_folder_that_goes_away_while_a_file_is_written_is_an_output_error(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with pytest.raises(OutputError, match="no such file or directory"), artifact.writing(folder / "a") as temporary:
        temporary.write_bytes(b"x")
        shutil.rmtree(folder)
    artifact.write_bytes(folder / "a", b"x")
    with artifact.lock_folder(folder):
        shutil.rmtree(folder)
    provenance = Provenance(stage="s", params={}, parents={}, tools={})
    with pytest.raises(OutputError, match="no such file or directory"):
        artifact.write_sidecar(folder / "a", provenance, None)
    assert not artifact.is_fresh(folder / "a", provenance)


@LINUX
def test_a_folder_that_may_only_be_read_is_an_output_error_and_stays_as_it_is() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "out"
        artifact.write_bytes(folder / "a.bin", b"old")
        Path(name).chmod(0o755)
        folder.chmod(0o555)
        said = finish(
            start(
                """
                import filelock  # while it can be read
                if os.getuid() == 0:
                    os.setuid(65534)  # root may write anywhere
                for act in (
                    lambda: artifact.write_bytes(folder / "a.bin", b"new"),
                    lambda: artifact.write_bytes(folder / "deep" / "b.bin", b"new"),
                    lambda: artifact.lock_folder(folder).__enter__(),
                    lambda: artifact.lending_folder(folder / "a.bin").__enter__(),
                ):
                    try:
                        act()
                    except OutputError as error:
                        print(error.expected, "|", error.found)
                """,
                folder,
            )
        )
        assert said == "a place that can be written | permission denied\n" * 4
        assert [path.name for path in folder.iterdir()] == ["a.bin"]
        folder.chmod(0o755)


def test_clocks_that_jump_do_not_decide_what_is_fresh(tmp_path: Path) -> None:
    path, provenance = tmp_path / "a.bin", Provenance(stage="s", params={}, parents={}, tools={})
    artifact.write_bytes(path, b"data")
    artifact.write_sidecar(path, provenance, None)
    for seconds in (0, 1, 4e9, -1):  # 1970, the year 2096, before 1970
        os.utime(path, (seconds, seconds))
        os.utime(artifact.sidecar_path(path), (0, 0))
        assert artifact.is_fresh(path, provenance)
    before = path.stat()
    assert artifact.digest_file(path) == hashlib.sha256(b"data").hexdigest()
    path.write_bytes(b"DATA")
    os.utime(
        path, ns=(before.st_atime_ns, before.st_mtime_ns)
    )  # the clock was put back: size, time and inode are equal
    assert not artifact.is_fresh(path, provenance)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "No such file or directory", "/gone/fp32.onnx"),
        OSError(28, "No space left on device"),
        FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_what_the_world_did_is_bad_input_in_one_line_and_no_bug(
    error: OSError, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    assert end_with_code(fail, Screen()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "bug" not in said and said.startswith("error: ")
    assert end_with_code(lambda: json.loads("{"), Screen()) == 5
