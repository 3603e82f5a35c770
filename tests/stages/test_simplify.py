"""simplify believes nobody: whatever onnxsim does, the file that is written computes what the input model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.artifact import digest_file, is_fresh, read_sidecar
from mbdeploy.errors import ModelError, StepError, UsageError
from mbdeploy.model_file import load_model, read_metadata, read_signature
from mbdeploy.records import SimplifyRecord
from mbdeploy.stages import simplify as stage
from mbdeploy.stages.simplify import plan, simplify
from mbdeploy.watch import Limits


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A stem as exporters write it for TensorFlow weights: its padding is computed from the image's size."""
    return write_model(tmp_path / "fp32.onnx", batch="N")


@pytest.fixture
def onnxsim(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a stand-in of wrong_onnxsim.py in onnxsim's place."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def replace(function: str) -> None:
        monkeypatch.setattr(stage, "_ONNXSIM_STEP", f"wrong_onnxsim:{function}")

    return replace


def write_model(path: Path, *, batch: str | int, **metadata: str) -> Path:
    rng = np.random.default_rng(0)
    constants = {
        "conv.weight": rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32),
        "conv.bias": rng.normal(0, 0.1, 8).astype(np.float32),
        "fc.weight": rng.normal(0, 0.5, (8, 5)).astype(np.float32),
        "fc.bias": rng.normal(0, 0.1, 5).astype(np.float32),
        "two": np.array(2),
        "eight": np.array(8),
        "axis": np.array([0]),
        "four": np.array([4]),
        "minus": np.array([-1]),
    }
    nodes = [
        helper.make_node("Shape", ["a picture"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["h"]),
        helper.make_node("Div", ["h", "eight"], ["k"]),
        helper.make_node("Unsqueeze", ["k", "axis"], ["u"]),
        helper.make_node("ConstantOfShape", ["four"], ["z"], value=numpy_helper.from_array(np.array([0]))),
        helper.make_node("Concat", ["z", "axis", "axis", "u", "u"], ["pads"], axis=0),
        helper.make_node("Pad", ["a picture", "pads"], ["p"], "pad"),
        helper.make_node("Conv", ["p", "conv.weight", "conv.bias"], ["c"], "conv", strides=[2, 2]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("ReduceMean", ["r"], ["m"], "mean", axes=[2, 3]),
        helper.make_node("Gather", ["s", "axis"], ["n"]),
        helper.make_node("Concat", ["n", "minus"], ["to"], axis=0),
        helper.make_node("Reshape", ["m", "to"], ["f"], "reshape"),
        helper.make_node("MatMul", ["f", "fc.weight"], ["g"], "matmul"),
        helper.make_node("Add", ["g", "fc.bias"], ["logits"], "add"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("a picture", TensorProto.FLOAT, [batch, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(proto, metadata)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def run(path: Path, images: np.ndarray) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"a picture": images})[0]


def assert_right(before: Path, after: Path, batches: tuple[int, ...] = (1, 3)) -> None:
    for batch in batches:
        images = np.random.default_rng(batch).normal(0, 1, (batch, 3, 16, 16)).astype(np.float32)
        np.testing.assert_allclose(run(after, images), run(before, images), atol=1e-4)


def list_operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


@pytest.mark.slow
def test_onnxsim_and_our_rewrites_leave_what_quantizes_and_the_batch_stays_dynamic(model: Path, tmp_path: Path) -> None:
    record = simplify(model, output=tmp_path / "simplified.onnx")
    assert (record.onnxsim, record.attempt, record.detail) == ("OK", "fixed batch", "")
    assert record.operators_after == {"Conv": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 1, "Reshape": 1}
    assert record.operators_before["Shape"] == 1
    assert "mean_to_global_pool" in {rewrite.name for rewrite in record.rewrites}
    assert record.max_abs < 1e-5
    assert read_signature(load_model(tmp_path / "simplified.onnx")).shape == (None, 3, 16, 16)
    assert_right(model, tmp_path / "simplified.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        ("change_outputs", "CHANGED"),
        ("crash", "CRASHED"),
        pytest.param("hang", "TIMEOUT", marks=pytest.mark.sweep),
        pytest.param("make_nan", "CHANGED", marks=pytest.mark.sweep),
        pytest.param("eat_memory", "OOM", marks=pytest.mark.sweep),
        pytest.param("write_garbage", "REJECTED", marks=pytest.mark.sweep),
    ],
)
def test_a_wrong_onnxsim_is_reported_and_done_without(
    request: pytest.FixtureRequest, tmp_path: Path, onnxsim: Any, function: str, verdict: str
) -> None:
    if verdict == "CHANGED":
        request.getfixturevalue("without_children")
    onnxsim(function)
    model, output = write_model(tmp_path / "fp32.onnx", batch=3), tmp_path / "simplified.onnx"
    record = simplify(model, output=output, strict=True, limits=Limits(wall_s=2.0 if function == "hang" else 60.0))
    assert (record.onnxsim, record.attempt) == (verdict, "rewrites only")
    assert record.detail.startswith(f"as it is: {verdict}, ")
    assert list_operators(output) == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    assert_right(model, output, batches=(3,))


@pytest.mark.slow
def test_an_onnxsim_that_hangs_is_not_waited_for_twice(model: Path, tmp_path: Path, onnxsim: Any) -> None:
    onnxsim("hang")
    record = simplify(model, output=tmp_path / "simplified.onnx", limits=Limits(wall_s=2.0))
    assert record.detail == "fixed batch: TIMEOUT, stopped after 2 s"
    assert list_operators(tmp_path / "simplified.onnx") == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    assert_right(model, tmp_path / "simplified.onnx")


@pytest.mark.sweep
def test_an_onnxsim_that_fails_only_at_a_fixed_batch_is_taken_as_it_is(
    model: Path, tmp_path: Path, onnxsim: Any
) -> None:
    onnxsim("change_outputs_at_a_fixed_batch")
    record = simplify(model, output=tmp_path / "simplified.onnx")
    assert (record.onnxsim, record.attempt) == ("OK", "as it is")
    assert record.detail.startswith("fixed batch: CHANGED, 'logits' is off by 0.01 (at most ")


@pytest.mark.slow
def test_where_our_rewrites_are_wrong_too_the_input_is_kept(
    model: Path, tmp_path: Path, onnxsim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxsim("crash")
    attempts = [attempt for attempt in stage.ATTEMPTS if attempt.name != "rewrites only"]
    monkeypatch.setattr(stage, "ATTEMPTS", attempts)
    record = simplify(model, output=tmp_path / "simplified.onnx")
    assert (record.onnxsim, record.attempt, record.rewrites, record.max_abs) == ("CRASHED", "input kept", (), 0.0)
    kept, source = onnx.load(tmp_path / "simplified.onnx"), onnx.load(model)
    assert kept.graph == source.graph
    assert read_metadata(kept)["mbdeploy.stage"] == "simplified"


@pytest.mark.slow
def test_a_static_batch_stays_and_the_same_input_gives_the_same_bytes(tmp_path: Path, onnxsim: Any) -> None:
    onnxsim("keep")
    model = write_model(tmp_path / "fp32.onnx", batch=2, **{"mbdeploy.card": "net", "author": "me"})
    outputs = [tmp_path / folder / "simplified.onnx" for folder in ("one", "two")]
    seen: list[tuple[str, int, int]] = []
    for output in outputs:
        record = simplify(model, output=output, on_progress=lambda *step: seen.append(step))
        sidecar = read_sidecar(output)
        assert sidecar is not None
        assert msgspec.json.decode(sidecar.record, type=SimplifyRecord) == record
        assert is_fresh(output, plan(model))
    assert (record.onnxsim, record.attempt) == ("OK", "as it is")
    assert list_operators(output) == ["Conv", "Relu", "GlobalAveragePool", "Reshape", "Gemm"]
    assert read_signature(load_model(output)).batch == 2
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    assert seen[0] == ("simplify: as it is", 1, len(stage.ATTEMPTS))
    assert seen[-1][1] == seen[-1][2]
    metadata = read_metadata(load_model(output))
    assert sorted(metadata) == ["author", "mbdeploy.card", "mbdeploy.provenance", "mbdeploy.stage"]
    assert json.loads(metadata["mbdeploy.provenance"])["parents"] == {"model": digest_file(model)}
    assert str(tmp_path).encode() not in output.read_bytes()


def test_a_plan_depends_on_the_model_the_golden_inputs_and_strictness(model: Path, tmp_path: Path) -> None:
    golden = tmp_path / "golden.npz"
    golden.write_bytes(b"one")
    keys = [plan(model).key, plan(model, strict=True).key, plan(model, golden=golden).key]
    golden.write_bytes(b"two")
    keys += [plan(model, golden=golden).key, plan(write_model(model, batch=1)).key]
    assert len(set(keys)) == len(keys)
    with pytest.raises(ModelError, match="no such file"):
        plan(tmp_path / "absent.onnx")


def test_the_input_is_never_overwritten(model: Path) -> None:
    with pytest.raises(UsageError, match="the same file"):
        simplify(model, output=model)


def test_a_model_on_which_onnx_runtime_itself_crashes_is_a_step_error(
    model: Path, tmp_path: Path, onnxsim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxsim("crash")
    monkeypatch.setattr(stage, "_FINISH_STEP", "wrong_onnxsim:crash")
    with pytest.raises(StepError, match="CRASHED: killed by SIGABRT"):
        simplify(model, output=tmp_path / "simplified.onnx")
    assert not (tmp_path / "simplified.onnx").exists()


def write_open_model(path: Path, *, opset: int = 17, axes: tuple[str | int, ...] = ("N", 3, "H", "W")) -> Path:
    """A convolution, and its output beside a grid that is computed from the image's size, as detectors have it."""
    weights = np.random.default_rng(0).normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    constants = {"w": weights, "zero": np.array(0), "one": np.array(1), "two": np.array(2), "axes": np.array([0, 1, 2])}
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node("Shape", ["c"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["rows"]),
        helper.make_node("Range", ["zero", "rows", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["middle"], axes=[0], keepdims=1),
        helper.make_node("Add", ["c", "middle"], ["boxes"]),
    ]
    graph = helper.make_graph(
        nodes,
        "open",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("boxes", TensorProto.FLOAT, [axes[0], 4, "R", "C"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def list_axes(path: Path) -> tuple[list[str | int], list[str | int]]:
    graph = onnx.load(path).graph
    first, second = (
        [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (graph.input[0], graph.output[0])
    )
    return first, second


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
@pytest.mark.parametrize("batch", ["N", 1])
def test_an_image_that_is_open_gets_a_size_and_what_follows_from_it_is_folded(batch: str | int, tmp_path: Path) -> None:
    model = write_open_model(tmp_path / "m.onnx", axes=(batch, 3, "H", "W"))
    simplify(model, output=tmp_path / "open.onnx")
    assert "Range" in list_operators(tmp_path / "open.onnx")
    output = tmp_path / "fixed.onnx"
    simplify(model, output=output, input_shape=(3, 12, 20))
    assert list_operators(output) == ["Conv"] or list_operators(output) == ["Conv", "Add"]
    assert list_axes(output) == ([batch, 3, 12, 20], [batch, 4, 10, 18])
    image = np.random.default_rng(1).normal(size=(1, 3, 12, 20)).astype(np.float32)
    answers = [ort.InferenceSession(path).run(None, {"image": image})[0] for path in (model, output)]
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    assert plan(model, input_shape=(3, 12, 20)).key != plan(model).key


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_a_size_that_the_file_fixes_otherwise_is_refused(tmp_path: Path) -> None:
    model = write_open_model(tmp_path / "m.onnx", axes=("N", 3, 8, "W"))
    with pytest.raises(UsageError, match=r"an image of \[3, 8, '\?'\], as the file has it, found \[3, 9, 8\]"):
        simplify(model, output=tmp_path / "x.onnx", input_shape=(3, 9, 8))
    assert not (tmp_path / "x.onnx").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("without_children")
def test_an_old_opset_is_raised_and_kept_where_that_changes_what_is_computed(tmp_path: Path, onnxsim: Any) -> None:
    model, output = write_open_model(tmp_path / "m.onnx", opset=11, axes=("N", 3, 8, 8)), tmp_path / "s.onnx"
    record = simplify(model, output=output)
    made = onnx.load(output)
    assert (record.onnxsim, record.opsets, record.detail) == ("OK", (11, 13), "")
    assert made.opset_import[0].version == 13 and made.ir_version >= 7
    assert simplify(model, output=output, opset=11).opsets == (11, 11)
    onnxsim("keep")
    stage_step = stage._OPSET_STEP
    stage._OPSET_STEP = "wrong_onnxsim:raise_wrongly"
    try:
        record = simplify(model, output=output)
    finally:
        stage._OPSET_STEP = stage_step
    assert record.opsets == (11, 11)
    assert "CHANGED" in record.detail
