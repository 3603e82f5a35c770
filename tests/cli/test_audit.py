"""``mbdeploy audit``: what it prints, what it writes, and how it ends."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result

from mbdeploy.cli import program
from mbdeploy.errors import EXIT_BAD_INPUT, EXIT_GATE_FAILED, EXIT_OK


def run(*args: object) -> Result:
    return CliRunner().invoke(program, ["audit", *map(str, args)])


@pytest.fixture
def clipping_file(tmp_path: Path) -> Path:
    """One convolution between Q/DQ pairs, two of whose four channels can clip."""
    place = Path(__file__).parents[1] / "auditing" / "graphs.py"
    spec = importlib.util.spec_from_file_location("graphs_of_audits", place)
    assert spec is not None and spec.loader is not None
    graphs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(graphs)
    path = tmp_path / "other.onnx"
    path.write_bytes(graphs.make_qdq().SerializeToString())
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_an_audit_and_its_repair_end_as_the_file_deserves(clipping_file: Path) -> None:
    found = run(clipping_file)
    assert found.exit_code == EXIT_GATE_FAILED
    assert found.stdout.startswith("The same answers on every CPU: no, 1 of 1 layers can clip\n")
    assert "MB301 error: saturation without VNNI" in found.stdout
    repaired = run(clipping_file, "--repair", "--format", "json")
    assert repaired.exit_code == EXIT_OK
    report = json.loads(repaired.stdout)
    assert report["schema_version"] == 1
    assert report["repair"]["clipping_after"] == 0
    assert report["verdict"] == "the same answers on every CPU: yes, 0 of 1 layers can clip"
    output = clipping_file.with_name("other.repaired.onnx")
    assert f"wrote {output}" in repaired.stderr
    again = run(output, "--format", "md")
    assert again.exit_code == EXIT_OK
    assert again.stdout.startswith("### The same answers on every CPU: yes, 0 of 1 layers can clip\n")


def test_a_float_file_and_a_file_that_is_not_there_are_bad_input(
    tmp_path: Path, make_conv_model: Callable[..., onnx.ModelProto]
) -> None:
    path = tmp_path / "float.onnx"
    path.write_bytes(make_conv_model().SerializeToString())
    result = run(path)
    assert result.exit_code == EXIT_BAD_INPUT
    assert "expected a quantized model, found a float one" in result.stderr
    missing = run(tmp_path / "missing.onnx")
    assert missing.exit_code == EXIT_BAD_INPUT
    assert "found no such file" in missing.stderr
