"""The side-by-side benchmark's own parts, with a fake peer: jobs, measuring, failures, the table."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mbdeploy.estimate import Interval

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
PEER = """
import json, sys
job = json.load(open(sys.argv[1]))
{body}
"""


@pytest.fixture
def quantizers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, whose peers lie in an empty folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("peer"), "PEERS", tmp_path)
    return importlib.import_module("quantizers")


def run_fake_peer(quantizers: ModuleType, folder: Path, body: str, limit_s: int = 60) -> dict[str, object]:
    (folder / "run_fake.py").write_text(PEER.format(body=body), encoding="utf-8")
    row = quantizers.Row("fake", "best", "Fake")
    job = quantizers.write_job(folder, row, Path("float.onnx"), Path("images.npz"), "image")
    command = quantizers.command_of(row, job, Path(sys.executable))
    answer: dict[str, object] = quantizers.quantize_row(command, folder / "fake-best.onnx", limit_s)
    return answer


def test_a_peer_is_told_the_files_the_input_and_the_setting(quantizers: ModuleType, tmp_path: Path) -> None:
    body = "open(job['output'], 'w').write(json.dumps(job)); print('to the log')"
    cells = run_fake_peer(quantizers, tmp_path, body)
    written = tmp_path / "fake-best.onnx"
    assert json.loads(written.read_text()) == {
        "model": "float.onnx",
        "input": "image",
        "calibration": "images.npz",
        "setting": "best",
        "output": str(written),
    }
    assert cells["size_mb"] == written.stat().st_size / 1e6
    assert cells.keys() == {"quantize_cpu_s", "peak_mb", "size_mb"}
    assert (tmp_path / "fake-best.log").read_text() == "to the log\n"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such setting')", "failed: ValueError: no such setting"),
        ("sys.exit(3)", "failed: it said nothing"),
        ("pass", "failed: it ended well and wrote no file"),
    ],
)
def test_a_peer_without_a_file_says_why(quantizers: ModuleType, tmp_path: Path, body: str, said: str) -> None:
    assert run_fake_peer(quantizers, tmp_path, body) == {"failed": said}


@pytest.mark.slow
def test_a_peer_that_does_not_end_is_ended_at_the_limit_of_cpu_time(quantizers: ModuleType, tmp_path: Path) -> None:
    found = run_fake_peer(quantizers, tmp_path, "while True: pass", limit_s=1)
    assert found == {"failed": "no file within 1 s of CPU time"}


def test_every_row_names_a_setting_that_its_peer_knows(quantizers: ModuleType) -> None:
    known = {}
    for file in sorted((BENCHMARKS / "peers").glob("run_*.py")):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "SETTINGS":
                assert isinstance(node.value, ast.Dict)
                known[file.stem.removeprefix("run_")] = [ast.literal_eval(key) for key in node.value.keys if key]
    asked: dict[str, list[str]] = {}
    for row in quantizers.ROWS:
        asked.setdefault(row.tool, []).append(row.setting)
    assert asked.pop("mbdeploy") == ["accurate", "portable"]
    assert asked == known


def test_every_requirement_of_a_peer_is_pinned() -> None:
    for file in sorted((BENCHMARKS / "peers").glob("*.txt")):
        pins = file.read_text(encoding="utf-8").split()
        assert pins and all(pin.count("==") == 1 for pin in pins), file.name


def test_the_table_keeps_the_line_of_a_peer_without_a_file(quantizers: ModuleType) -> None:
    row = {
        "words": "Ours",
        "sqnr_db": 25.781,
        "sqnr_db cpu executed": 25.0,
        "sqnr_db cpu exact": 25.004,
        "sqnr_db cpu@qemu:haswell executed": 24.5,
        "agreement": 0.993,
        "top1_minus_fp32": Interval(value=-0.002, low=-0.009, high=0.003, n=300, confidence=0.95),
        "cpu_time_ratio": Interval(value=0.5361, low=0.53, high=0.54, n=100, confidence=0.95),
        "size_mb": 5.07,
        "quantize_cpu_s": 61.4,
        "peak_mb": 700,
    }
    table = quantizers.format_table([row, {"words": "Theirs", "failed": "not | installed"}], "cpu@qemu:haswell")
    head, rule, ours, theirs = table.splitlines()
    assert ours == ("| Ours | 25.78 | 25.00 / 25.00 | 24.50 | 99.3 % | −0.2 [−0.9, +0.3] | 0.536 | 5.07 | 61 | 700 |")
    assert theirs.startswith("| Theirs | not   installed |")
    assert len({line.count("|") for line in (head, rule, ours, theirs)}) == 1
