"""The matrix names the node that diverges, here and on made-up targets, and writes a script that shows it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mbdeploy.card import Budgets
from mbdeploy.cli import program
from mbdeploy.errors import StepError
from mbdeploy.golden import Golden, write_golden
from mbdeploy.stages import matrix
from mbdeploy.stages.bisect_runs import Cell, diverges, measure
from mbdeploy.stages.matrix import verify_matrix
from mbdeploy.stages.matrix_runs import WAYS
from mbdeploy.targets import Session, open_target, parse_provider
from mbdeploy.targets.fake import FakeTarget
from mbdeploy.tracing.cuts import Cut, quantize_only

Build = Callable[..., onnx.ModelProto]
Plug = Callable[[str, FakeTarget], str]
LOOSE = Budgets(int8_sqnr_db=5)
#: One test asks this machine through children, as users do; the others are about what is made of the answers.
HERE = pytest.mark.usefixtures("without_children")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 2, (6, 1, 6, 6)).astype(np.float32)


def save(model: onnx.ModelProto, path: Path, images: np.ndarray) -> Path:
    """The model as a file, and beside it a golden.npz of its unrounded answers."""
    path.write_bytes(model.SerializeToString())
    expected = ReferenceEvaluator(quantize_only(model, ())).run(None, {"x": images})[0]
    golden = Golden(input=images, outputs=(expected,), output_names=("y",), names=tuple("abcdef"))
    write_golden(path.parent / "golden.npz", golden)
    return path


def answer_wrongly(node: str) -> Callable[[Session, np.ndarray], list[np.ndarray]]:
    """A runtime that doubles the weights of one node when it optimises: only models with that node are answered so."""

    def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        model = onnx.load(session.model)
        if session.optimization != "none":
            weights = {name for one in model.graph.node if one.name == node for name in one.input}
            made = {one.output[0]: one.input[0] for one in model.graph.node}
            for tensor in model.graph.initializer:
                if tensor.name in {made.get(name) for name in weights} | weights and tensor.dims:
                    values = numpy_helper.to_array(tensor)
                    tensor.CopyFrom(numpy_helper.from_array((values // 2).astype(values.dtype), tensor.name))
        return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: inputs})

    return answer


def test_a_good_file_passes_in_every_way(build_chain: Build, tmp_path: Path, images: np.ndarray) -> None:
    report = verify_matrix([save(build_chain(), tmp_path / "q.onnx", images)], budgets=LOOSE)
    assert [row.way for row in report.rows] == list(WAYS)
    assert [row.passed for row in report.rows] == [True] * len(WAYS)
    assert report.divergences == ()
    sessions = {row.way: row.session for row in report.rows}
    assert sessions["x64quantprecision=1"]["session_config"]["session.x64quantprecision"] == "1"
    assert [sessions[way]["optimization"] for way in WAYS] == ["all", "all", "extended", "basic", "none"]
    assert report.rows[-1].exact.sqnr_db == np.inf


@pytest.mark.slow
@HERE
def test_a_node_that_this_runtime_executes_otherwise_is_named(
    build_chain: Build, tmp_path: Path, images: np.ndarray
) -> None:
    path = save(build_chain(layers=5, wrong_bias=3, channels=2), tmp_path / "q.onnx", np.repeat(images, 2, axis=1))
    report = verify_matrix([path], budgets=LOOSE, reduce_to=tmp_path / "reduced")
    passed = {row.way: row.passed for row in report.rows}
    assert passed == {"default": False, "x64quantprecision=1": False, "extended": False, "basic": True, "none": True}
    assert {one.subject for one in report.divergences} == {
        "q on cpu, default",
        "q on cpu, x64quantprecision=1",
        "q on cpu, extended",
    }
    for one in report.divergences:
        assert (one.cause, one.node, one.operator, one.tensor) == ("runtime", "conv3", "Conv", "q3")
        assert one.before > 40 and one.after < 30
        assert one.after_lsb is not None and one.after_lsb > 1
    place = Path(report.reduced[0])
    reduced = onnx.load(place / "model.onnx")
    assert [node.name for node in reduced.graph.node if node.op_type == "Conv"] == ["conv3"]
    done = subprocess.run(
        [sys.executable, "-I", str(place / "show.py")], capture_output=True, text=True, cwd=tmp_path, timeout=60
    )
    assert done.returncode == 10, done.stderr
    lines = [line for line in done.stdout.splitlines() if "SQNR" in line]
    assert "SQNR     inf dB" in lines[0] and "exact" in lines[0]
    assert "as executed" in lines[1] and "inf" not in lines[1]


@pytest.mark.slow
@pytest.mark.parametrize("node", ["conv1", "conv2", "conv5"])
@HERE
def test_a_node_that_a_target_gets_wrong_is_named(
    build_chain: Build, tmp_path: Path, images: np.ndarray, plug_fake: Plug, node: str
) -> None:
    path = save(build_chain(layers=5), tmp_path / "q.onnx", images)
    word = plug_fake("wrong", FakeTarget(answer=answer_wrongly(node), emulated=True))
    report = verify_matrix([path], providers=[word], budgets=LOOSE)
    assert [row.way for row in report.rows] == ["default", "x64quantprecision=1", "extended"]
    assert {(one.cause, one.node) for one in report.divergences} == {("runtime", node)}
    assert {one.before for one in report.divergences} == {np.inf}


@HERE
def test_a_session_that_is_refused_is_a_failing_cell_and_the_others_are_judged(
    build_chain: Build, tmp_path: Path, images: np.ndarray, plug_fake: Plug
) -> None:
    def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        if session.optimization == "extended":
            raise StepError(where=session.model, expected="a model", found="CRASHED while loading", todo="look")
        return ReferenceEvaluator(onnx.load(session.model)).run(None, {"x": inputs})

    path = save(build_chain(), tmp_path / "q.onnx", images)
    report = verify_matrix([path], providers=[plug_fake("moody", FakeTarget(answer=answer))], budgets=LOOSE)
    assert {row.way: row.passed for row in report.rows} == {**dict.fromkeys(WAYS, True), "extended": False}
    refused = next(row for row in report.rows if row.way == "extended")
    assert refused.reference.degenerate == "CRASHED while loading"
    [gate] = [gate for gate in report.checks if gate.passed is False]
    assert (gate.subject, gate.note) == ("q on cpu@moody, extended", "CRASHED while loading")


@HERE
def test_a_file_that_is_refused_in_every_way_is_an_error(
    build_chain: Build, tmp_path: Path, images: np.ndarray, plug_fake: Plug
) -> None:
    def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        raise StepError(where=session.model, expected="a model", found="CRASHED while loading", todo="look")

    path = save(build_chain(), tmp_path / "q.onnx", images)
    with pytest.raises(StepError, match="CRASHED while loading"):
        verify_matrix([path], providers=[plug_fake("grim", FakeTarget(answer=answer))], budgets=LOOSE)


@pytest.mark.slow
@HERE
def test_a_float_node_that_a_target_gets_wrong_is_named(
    make_conv_model: Build, tmp_path: Path, plug_fake: Plug
) -> None:
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    model = make_conv_model()
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    expected = ReferenceEvaluator(model).run(None, {"image": images})[0]
    golden = Golden(input=images, outputs=(expected,), output_names=("logits",), names=tuple("abcd"))
    write_golden(tmp_path / "golden.npz", golden)
    word = plug_fake("wrong", FakeTarget(answer=answer_wrongly("conv")))
    report = verify_matrix([tmp_path / "f.onnx"], providers=[word])
    assert {(one.cause, one.node, one.tensor) for one in report.divergences} == {("runtime", "conv", "r")}
    assert {row.way: row.passed for row in report.rows}["none"] is True


@pytest.mark.slow
@HERE
def test_an_activation_that_is_rounded_too_coarsely_is_named(
    build_chain: Build, tmp_path: Path, images: np.ndarray
) -> None:
    model = build_chain(layers=4)
    save(model, tmp_path / "q.onnx", images)
    coarse = onnx.NodeProto()
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(1.0)), "coarse"))
    for coarse in model.graph.node:
        if coarse.name in ("quantize2", "dequantize2"):
            coarse.input[1] = "coarse"
    (tmp_path / "q.onnx").write_bytes(model.SerializeToString())
    report = verify_matrix([tmp_path / "q.onnx"], budgets=Budgets(int8_sqnr_db=30), reduce_to=tmp_path / "reduced")
    (one,) = report.divergences  # it fails alike in every way, and is traced once
    assert (one.cause, one.node, one.tensor, one.measure) == ("rounding", "conv2", "q2", "sqnr_db")
    assert one.before >= 30 > one.after
    place = Path(report.reduced[0])
    done = subprocess.run([sys.executable, "-I", str(place / "show.py")], capture_output=True, text=True, timeout=60)
    assert done.returncode == 10, done.stderr
    assert f"{one.after:.2f} dB" in done.stdout and f"{one.before:.2f} dB" in done.stdout


def show(place: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(Path(place) / "show.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.sweep
@HERE
def test_a_node_without_any_number_in_a_model_of_one_image_is_shown_with_its_threads(
    build_chain: Build, tmp_path: Path, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "list_ways", lambda *_: ["default", "none"])  # the others fail alike
    path = save(build_chain(layers=2, wrong_bias=2), tmp_path / "q.onnx", images)  # its only channel is constant
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    path.write_bytes(model.SerializeToString())
    report = verify_matrix([path], budgets=LOOSE, threads=2, reduce_to=tmp_path / "reduced")
    assert np.isnan(report.divergences[0].after)
    done = show(report.reduced[0])
    assert done.returncode == 10, done.stdout + done.stderr
    assert "THREADS = 2\n" in (Path(report.reduced[0]) / "show.py").read_text()


@pytest.mark.sweep
def test_what_openvino_gets_wrong_is_shown_by_openvino(real_openvino: None, tmp_path: Path, images: np.ndarray) -> None:
    grid = ["s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", *grid], ["q0"], "quantize0"),
        helper.make_node("DequantizeLinear", ["q0", *grid], ["d0"], "dequantize0"),
        helper.make_node("AveragePool", ["d0"], ["c"], "pool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
        helper.make_node("QuantizeLinear", ["c", *grid], ["q1"], "quantize1"),
        helper.make_node("DequantizeLinear", ["q1", *grid], ["y"], "dequantize1"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1, 6, 6]) for name in "xy")
    weights = [numpy_helper.from_array(np.asarray(np.float32(1 / 32)), "s")]
    weights.append(numpy_helper.from_array(np.asarray(np.uint8(128)), "z"))
    graph = helper.make_graph(nodes, "pool", [x], [y], weights)
    path = save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10),
        tmp_path / "q.onnx",
        images,
    )
    report = verify_matrix([path], providers=["openvino"], budgets=LOOSE, reduce_to=tmp_path / "reduced")
    assert [(one.cause, one.node) for one in report.divergences] == [("runtime", "pool")]
    done = show(report.reduced[0])
    assert done.returncode == 10 and "as executed (OpenVINO" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@HERE
def test_a_cell_that_failed_by_its_classes_is_shown_by_its_classes(
    build_chain: Build, tmp_path: Path, images: np.ndarray
) -> None:
    model = build_chain(channels=2)
    path = save(model, tmp_path / "q.onnx", np.repeat(images, 2, axis=1))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(np.float32(1.0)), "coarse"))
    for node in model.graph.node:
        if node.name in ("quantize2", "dequantize2"):
            node.input[1] = "coarse"
    path.write_bytes(model.SerializeToString())
    budgets = Budgets(int8_sqnr_db=0, int8_top1_agreement=0.95)
    report = verify_matrix([path], budgets=budgets, reduce_to=tmp_path / "reduced")
    (one,) = report.divergences
    assert (one.cause, one.measure, one.node) == ("rounding", "top1_agreement", "conv2")
    done = show(report.reduced[0])
    assert done.returncode == 10 and f"top1_agreement {one.after:.4g}, bound 0.95" in done.stdout, done.stdout


@pytest.mark.slow
@HERE
def test_a_cell_that_fell_back_is_shown_where_it_ran_and_nan_is_judged(
    make_conv_model: Build, tmp_path: Path, plug_fake: Plug
) -> None:
    def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        answers = ReferenceEvaluator(onnx.load(session.model)).run(None, {"image": inputs})
        return [values * (1 if session.optimization == "none" else np.nan) for values in answers]

    images = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    onnx.save(make_conv_model(), tmp_path / "f.onnx")
    expected = ReferenceEvaluator(make_conv_model()).run(None, {"image": images})[0]
    golden = Golden(input=images, outputs=(expected,), output_names=("logits",), names=("a", "b"))
    write_golden(tmp_path / "golden.npz", golden)
    word = plug_fake("board", FakeTarget(answer=answer)).replace("cpu@", "cuda@")
    report = verify_matrix([tmp_path / "f.onnx"], providers=[word], allow_fallback=True, reduce_to=tmp_path / "reduced")
    text = (Path(report.reduced[0]) / "show.py").read_text()
    assert "PROVIDER, PROVIDER_OPTIONS = 'CPUExecutionProvider', {}" in text
    assert "METRIC, BOUND, REFUSES_DEGENERATE = 'unlike', 0.0, False" in text
    assert show(report.reduced[0]).returncode == 0  # here it is executed rightly


def test_values_that_are_equal_do_not_diverge_even_without_any_number(tmp_path: Path) -> None:
    cell = Cell(
        model=tmp_path,
        name="f",
        kind="fp32",
        session=Session(model=tmp_path, provider="CPUExecutionProvider"),
        target=FakeTarget(answer=lambda session, inputs: []),
        **dict.fromkeys(("inputs", "expected", "executed", "exact"), np.zeros(1, np.float32)),
        index=0,
        failed=(),
        budgets=Budgets(),
    )
    cut = Cut(tensor="t", node="n", operator="Log", sources=())
    values = np.array([[np.nan, 1], [np.inf, 2]], np.float32)
    assert not diverges(cut, values, values.copy(), None, cell) and measure(cut, values, values.copy())[0] == np.inf
    assert diverges(cut, values, np.nan_to_num(values), None, cell)
    constant = np.ones((2, 2), np.float32)
    assert not diverges(cut, constant, constant.copy(), constant, cell)


@pytest.mark.slow
@HERE
def test_wrong_weights_are_no_node_s_fault(build_chain: Build, tmp_path: Path, images: np.ndarray) -> None:
    path = save(build_chain(), tmp_path / "q.onnx", images)
    model = build_chain()
    for tensor in model.graph.initializer:
        if tensor.name == "w2":
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) // 4, "w2"))
    path.write_bytes(model.SerializeToString())
    (one,) = verify_matrix([path], budgets=Budgets(int8_sqnr_db=30)).divergences
    assert (one.cause, one.node) == ("file", "")
    assert "weights, biases or ranges are at fault" in one.note


@pytest.mark.slow
@HERE
def test_the_command_shows_cells_gates_and_where_it_begins(
    build_chain: Build, tmp_path: Path, images: np.ndarray
) -> None:
    path = save(build_chain(wrong_bias=2, channels=2), tmp_path / "q.onnx", np.repeat(images, 2, axis=1))
    raw, words = tmp_path / "raw.json", ["verify", str(path), "--matrix", "--reduce", str(tmp_path / "r")]
    result = CliRunner().invoke(program, [*words, "-o", str(raw)])
    assert result.exit_code == 1, result.output
    assert all(way in result.stdout for way in WAYS)
    assert "Conv conv2" in result.stdout and "Where it begins" in result.stdout
    assert json.loads(raw.read_text())["divergences"][0]["node"] == "conv2"
    alone = CliRunner().invoke(program, ["verify", str(path), "--reduce", str(tmp_path / "r")])
    assert alone.exit_code == 2 and "--matrix" in alone.stderr


@pytest.mark.sweep
@pytest.mark.emulation
def test_saturation_on_a_cpu_without_vnni_is_traced_to_its_layer(
    real_qemu: None, build_chain: Build, tmp_path: Path, images: np.ndarray
) -> None:
    model = build_chain(layers=3, channels=4, zero=0)
    for tensor in model.graph.initializer:
        if tensor.name == "w2":  # neighbours of one sign, and as large as int8 can be
            loud = np.where(np.indices((4, 4, 3, 3))[2] == 0, 127, -40).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(loud, "w2"))
        elif tensor.name in ("w1", "w3"):
            quiet = (numpy_helper.to_array(tensor) // 3).astype(np.int8)
            tensor.CopyFrom(numpy_helper.from_array(quiet, tensor.name))
        elif tensor.name == "b1":
            tensor.CopyFrom(numpy_helper.from_array(np.full(4, 50_000, np.int32), "b1"))
    loud_images = np.repeat(np.abs(images) * 4, 4, axis=1)
    path = save(model, tmp_path / "q.onnx", loud_images)
    report = verify_matrix([path], providers=["cpu@qemu:haswell"], budgets=LOOSE, reduce_to=tmp_path / "reduced")
    assert {row.way: row.passed for row in report.rows}["x64quantprecision=1"] is True
    one = report.divergences[0]
    assert (one.subject, one.cause, one.node) == ("q on cpu@qemu:haswell, default", "runtime", "conv2")
    script = Path(report.reduced[0]) / "show.py"
    command = [*open_target(parse_provider("cpu@qemu:haswell")).command, str(script)]  # type: ignore[attr-defined]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    lines = [line for line in done.stdout.splitlines() if "SQNR" in line]
    assert done.returncode == 10 and "inf dB" in lines[0] and "inf dB" not in lines[1], done.stderr
