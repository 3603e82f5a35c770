"""Session options as rows, and the code that uses them: it opens the model as it was measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mbdeploy.isolate import ignore_progress
from mbdeploy.targets import Session
from mbdeploy.timing.tuning import (
    OPTIONS,
    Option,
    apply_options,
    combine_options,
    list_options,
    name_options,
    save_optimised,
    write_code,
)

CPU = "CPUExecutionProvider"
BY_NAME = {option.name: option for option in OPTIONS}


@pytest.fixture
def relu_model(tmp_path: Path) -> Path:
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Relu", ["i"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, ["n", 3])],
        [info("y", TensorProto.FLOAT, ["n", 3])],
    )
    path = tmp_path / "it's.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_options_change_a_session_and_nothing_else_of_it() -> None:
    plain = Session(model=Path("m.onnx"), provider=CPU, threads=2, companions=("w.bin",), session_config={"a": "1"})
    chosen = [BY_NAME["ORT format"], BY_NAME["no arena"], BY_NAME["no spinning"]]
    found = apply_options(plain, chosen, {"ort": Path("o.ort"), "onnx": Path("o.onnx")})
    assert (found.model, found.companions, found.optimization, found.arena) == (Path("o.ort"), (), "none", False)
    assert found.session_config == {
        "a": "1",
        "session.load_model_format": "ORT",
        "session.intra_op.allow_spinning": "0",
    }
    assert (found.threads, found.provider) == (2, CPU)
    assert apply_options(plain, [], {}) == plain


def test_one_thread_does_not_spin_so_that_there_is_nothing_to_try() -> None:
    assert "no spinning" not in {option.name for option in list_options(1)}
    assert "no spinning" in {option.name for option in list_options(2)}


def test_of_each_group_the_fastest_is_combined() -> None:
    faster = [(0.9, BY_NAME["basic"]), (0.8, BY_NAME["ORT format"]), (0.95, BY_NAME["no arena"])]
    assert name_options(combine_options(faster)) == "ORT format + no arena"
    assert name_options(combine_options([])) == "defaults"


@pytest.mark.parametrize("names", [(), ("basic",), ("no arena",), ("optimised file", "no arena"), ("ORT format",)])
def test_the_code_opens_the_model_as_the_session_was(
    names: tuple[str, ...], relu_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[Option] = [BY_NAME[name] for name in names]
    plain = Session(model=relu_model, provider=CPU, session_config={"session.force_spinning_stop": "1"})
    files = {"onnx": relu_model.with_suffix(".o.onnx"), "ort": relu_model.with_suffix(".ort")}
    code = write_code(apply_options(plain, chosen, files), chosen, relu_model.name)
    monkeypatch.chdir(relu_model.parent)
    names_after: dict[str, object] = {}
    exec(code, names_after)
    session = names_after["session"]
    x = np.array([[-1, 0, 2]], np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], [[0, 0, 2]])  # type: ignore[attr-defined]
    assert "force_spinning_stop" not in code


def test_an_optimised_file_is_smaller_by_what_was_optimised_away(relu_model: Path, tmp_path: Path) -> None:
    output = tmp_path / "made.onnx"
    request = {
        "model": str(relu_model),
        "output": str(output),
        "provider": CPU,
        "provider_options": {},
        "session_config": {},
    }
    assert save_optimised(request, ignore_progress) == {"size_bytes": output.stat().st_size}
    assert [node.op_type for node in onnx.load(output).graph.node] == ["Relu"]
