"""Ctrl-C and SIGTERM in the middle of every long command: its exit code, no process left, nothing half-written."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest

from mbdeploy.cli import EXIT_INTERRUPTED, EXIT_TERMINATED

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are looked up in /proc")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARITY = "verify float.onnx --reference float.onnx --data ./photos --preprocess unit -o OUT.json"
#: Command -> its words, and how many processes it has started when it is interrupted. OUT is a file or folder to write.
COMMANDS = {
    "evaluate": ("evaluate float.onnx --data classes --preprocess unit -o OUT.json", 1),
    "evaluate --workers": ("evaluate float.onnx --data classes --preprocess unit --workers 2 -o OUT.json", 3),
    "calibrate": ("calibrate float.onnx --calibration ./photos --preprocess unit --shards 3 -o OUT", 2),
    "audit": ("audit int8.onnx --repair --against chain.onnx -o OUT.onnx", 1),
    "quantize": ("quantize float.onnx --calibration ./photos --preprocess unit --min-sqnr 30 -o OUT.onnx", 3),
    "verify": (f"{PARITY} --provider cpu --provider openvino", 2),
    "verify --matrix": (f"{PARITY} --matrix", 2),
    "sweep": ("sweep tiny.toml --recipe portable --min-duration 0.1 -o OUT --store STORE", 3),
    "search": ("search net.toml --target-latency 1ms --quality sqnr --recipe portable -o OUT --store STORE", 2),
    "check": ("check tiny.toml other.toml --workers 2 --json OUT.json -o OUT --store STORE", 4),
}
#: Those that stay in the slow tier, with Ctrl-C alone.
EXAMPLES = {"verify", "check"}
ENDINGS = ((signal.SIGINT, EXIT_INTERRUPTED, "interrupted"), (signal.SIGTERM, EXIT_TERMINATED, "terminated"))
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def kill_nine(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("kill_nine")


@pytest.fixture
def place(
    tmp_path: Path,
    tiny_card: Path,
    make_onnx_card: Callable[..., Path],
    build_chain: Callable[..., onnx.ModelProto],
    undo_quantization: Callable[[onnx.ModelProto], onnx.ModelProto],
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with cards, models, images and classes, which is the current one; temporary files go to its ``tmp``."""
    tiny_card.rename(tmp_path / "net.toml")
    for name in ("tiny", "other"):
        make_onnx_card(tmp_path, name)
    (tmp_path / "float.onnx").write_bytes((tmp_path / "tiny.onnx").read_bytes())
    chain = build_chain()
    (tmp_path / "int8.onnx").write_bytes(chain.SerializeToString())
    (tmp_path / "chain.onnx").write_bytes(undo_quantization(chain).SerializeToString())
    for index, photo in enumerate(sorted((tmp_path / "photos").iterdir())):
        folder = tmp_path / "classes" / str(index)
        folder.mkdir(parents=True)
        (folder / photo.name).write_bytes(photo.read_bytes())
    (tmp_path / "tmp").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def list_rows() -> Iterator[Any]:
    for name in COMMANDS:
        for ending in ENDINGS:
            marks = [pytest.mark.slow] if name in EXAMPLES and ending is ENDINGS[0] else [pytest.mark.sweep]
            yield pytest.param(name, *ending, marks=marks, id=f"{name}-{ending[2]}")


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"it ended by itself: {process.communicate()[1]}"
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def note_pythons(kill_nine: ModuleType, mark: str, seen: set[int]) -> int:
    """How many processes of Python the command has started so far, its own and its children's."""
    for pid in set(kill_nine.find_marked(mark)) - seen:
        try:
            if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes():
                seen.add(pid)
        except OSError:
            continue
    return len(seen)


def assert_put_away(kill_nine: ModuleType, mark: str, place: Path, before: set[Path]) -> None:
    assert kill_nine.find_orphans(mark, wait_s=0.2) == []
    new = {path for path in place.rglob("*") if path.is_file()} - before
    assert [path for path in new if "mbdeploy-tmp" in path.name or "tmp" in path.relative_to(place).parts[0]] == []
    assert [path.name for path in new if path.parent == place and path.name.startswith("OUT")] == []
    assert kill_nine.find_torn(place) == []


@pytest.mark.parametrize(("name", "number", "code", "word"), [*list_rows()])
def test_a_signal_in_the_middle_of_a_command_leaves_no_process_and_no_half_file(
    name: str,
    number: signal.Signals,
    code: int,
    word: str,
    place: Path,
    start_listening: Start,
    kill_nine: ModuleType,
    real_openvino: None,
) -> None:
    words, children = COMMANDS[name]
    mark = f"{place.name}-{os.getpid()}-{word}."
    before = {path for path in place.rglob("*") if path.is_file()}
    marked = {"PATH": kill_nine.mark_environment(mark)["PATH"], "TMPDIR": str(place / "tmp")}
    process = start_listening(*words.split(), "--quiet", **marked)
    seen: set[int] = set()
    try:
        wait_for(lambda: note_pythons(kill_nine, mark, seen) > children, process)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said.strip()) == (code, f"error: {word}")
    assert_put_away(kill_nine, mark, place, before)


@pytest.mark.sweep
@pytest.mark.parametrize(("number", "code", "word"), ENDINGS)
def test_a_signal_while_a_page_is_written_leaves_the_old_page(
    number: signal.Signals, code: int, word: str, place: Path, start_listening: Start, kill_nine: ModuleType
) -> None:
    """A report has no children: it is interrupted when all is written and nothing is on the disk yet."""
    run = start_listening("run", "tiny.toml", "-o", "out", "--until", "simplify", "--quiet")
    assert run.communicate(timeout=120)[1] == "" and run.returncode == 0
    (place / "page.html").write_text("the old page")
    before = {path for path in place.rglob("*") if path.is_file()}
    pause = f"import os, time; os.fsync = lambda handle: (open({str(place / 'reached')!r}, 'w'), time.sleep(600)); "
    process = start_listening("report", "out", "--format", "html", "-o", "page.html", before=pause)
    try:
        wait_for((place / "reached").exists, process)
        assert [path for path in place.iterdir() if "mbdeploy-tmp" in path.name]
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said.strip()) == (code, f"error: {word}")
    assert {path for path in place.rglob("*") if path.is_file()} - before == {place / "reached"}
    assert (place / "page.html").read_text() == "the old page"
