"""The curve along the network: what is compared with what, how it was had, and what is said where it cannot be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from mbdeploy.artifact import digest_file
from mbdeploy.card import Budgets
from mbdeploy.cli import program
from mbdeploy.errors import StepError, UsageError
from mbdeploy.golden import Golden, write_golden
from mbdeploy.isolate import ignore_progress
from mbdeploy.model_file import write_metadata
from mbdeploy.quant.metrics import compare_outputs
from mbdeploy.results import LayerCurve, ParityReport, decode_result
from mbdeploy.stages.layers import find_twins, record_layers
from mbdeploy.stages.subject import read_subjects
from mbdeploy.stages.verify import plan, verify
from mbdeploy.targets import Session, open_target, parse_provider
from mbdeploy.targets.fake import FakeTarget

Build = Callable[..., onnx.ModelProto]
Plug = Callable[[str, FakeTarget], str]
Write = Callable[..., list[Path]]
LOOSE = Budgets(int8_sqnr_db=0)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(2).uniform(-1, 2, (6, 1, 6, 6)).astype(np.float32)


@pytest.fixture
def write_twins(
    build_chain: Build,
    undo_quantization: Callable[[onnx.ModelProto], onnx.ModelProto],
    tmp_path: Path,
    images: np.ndarray,
) -> Write:
    """Write f.onnx and q.onnx, a chain of three in float and in 8 bits, with golden.npz; the paths in this order."""

    def write(change: Callable[[onnx.ModelProto], object] = lambda model: None) -> list[Path]:
        quantized = build_chain(layers=3)
        floats = undo_quantization(quantized)
        change(quantized)
        for name, model in (("f", floats), ("q", quantized)):
            (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        (expected,) = ReferenceEvaluator(floats).run(None, {"x": images})
        golden = Golden(input=images, outputs=(expected,), output_names=("y",), names=tuple("abcdef"))
        write_golden(tmp_path / "golden.npz", golden)
        return [tmp_path / "f.onnx", tmp_path / "q.onnx"]

    return write


def answer(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
    model = onnx.load(session.model)
    return ReferenceEvaluator(model).run(None, {"x": inputs})


def record(plug: Plug, models: list[Path], own: FakeTarget | None = None, **keywords: bool) -> LayerCurve:
    """The curve of q.onnx where the reference evaluator is this machine, and ``own`` the provider."""
    plug("local", FakeTarget(answer=answer))
    word = plug("own", own or FakeTarget(answer=answer))
    (curve,) = verify(models, providers=[word], layers=True, budgets=LOOSE, **keywords).layers
    return curve


def test_layers_as_this_runtime_executes_them_are_compared_with_the_float_file_s(
    write_twins: Write, images: np.ndarray
) -> None:
    models, here = write_twins(), parse_provider("cpu")
    (twins,) = find_twins(read_subjects(models), None)
    (curve,) = record_layers(twins, [(here, open_target(here))], images, {}, ignore_progress)
    assert (curve.model.name, curve.origin.name, curve.provider, curve.way) == ("q", "f", "cpu", "at once")
    assert [(row.node, row.operator, row.tensor, row.sources) for row in curve.layers] == [
        ("conv1", "Conv", "c1", ()),
        ("conv2", "Conv", "c2", ("c1",)),
        ("conv3", "Conv", "y", ("c2",)),
    ]
    floats, quantized = onnx.load(models[0]), onnx.load(models[1])
    for model, names in ((floats, ("c1", "c2")), (quantized, ("d1", "d2"))):
        model.graph.output.extend(
            helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 1, 6, 6]) for name in names
        )
    y, *before = ReferenceEvaluator(floats).run(None, {"x": images})
    end, *made = ReferenceEvaluator(quantized).run(None, {"x": images})
    for row, ideal, values in zip(curve.layers, [*before, y], [*made, end], strict=True):
        wanted = compare_outputs(ideal, values, 1 / 32)
        assert row.metrics.sqnr_db == pytest.approx(wanted.sqnr_db, abs=1e-3)
        assert row.metrics.max_lsb == pytest.approx(wanted.max_lsb, abs=1e-3)
        assert (row.metrics.images, row.metrics.top1_agreement) == (6, None)


def test_without_being_asked_for_nothing_is_recorded(write_twins: Write, plug_fake: Plug) -> None:
    word = plug_fake("own", FakeTarget(answer=answer))
    assert verify(write_twins(), providers=[word], budgets=LOOSE).layers == ()


def test_a_runtime_that_runs_otherwise_when_asked_for_more_is_asked_for_one_tensor_after_the_other(
    write_twins: Write, plug_fake: Plug
) -> None:
    def differ(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        outputs = answer(session, inputs)
        return outputs if len(outputs) == 1 else [values + 1 for values in outputs]

    models, moody = write_twins(), FakeTarget(answer=differ)
    curve, plain = record(plug_fake, models, moody), record(plug_fake, models)
    assert (curve.way, plain.way) == ("one by one", "at once")
    assert curve.layers == plain.layers
    quick = record(plug_fake, models, moody, one_by_one=False)
    assert (quick.layers, quick.way) == ((), None)
    assert "which `mbdeploy verify --layers` does" in quick.note


def test_what_the_runtime_refuses_is_a_note_and_the_verification_goes_on(write_twins: Write, plug_fake: Plug) -> None:
    def refuse(session: Session, inputs: np.ndarray) -> list[np.ndarray]:
        if "part" in session.model.name:
            raise StepError(where=session.model, expected="a model", found="REJECTED while loading", todo="look")
        return answer(session, inputs)

    curve = record(plug_fake, write_twins(), FakeTarget(answer=refuse))
    assert curve.layers == ()
    assert curve.note == "it cannot be run layer by layer: REJECTED while loading"


def test_channels_of_zeros_that_widening_added_do_not_count_and_others_are_degenerate(
    write_twins: Write, plug_fake: Plug
) -> None:
    def widen(by: np.ndarray) -> Callable[[onnx.ModelProto], None]:
        def change(model: onnx.ModelProto) -> None:
            tensors = {tensor.name: tensor for tensor in model.graph.initializer}
            for name, axis, values in (("w1", 0, by), ("b1", 0, by[0, 0, 0]), ("w2", 1, 0 * by)):
                old = numpy_helper.to_array(tensors[name])
                more = np.zeros([1 if n == axis else size for n, size in enumerate(old.shape)], old.dtype)
                more += values.astype(old.dtype)
                tensors[name].CopyFrom(numpy_helper.from_array(np.concatenate([old, more], axis), name))

        return change

    plain = record(plug_fake, write_twins())
    assert record(plug_fake, write_twins(widen(np.zeros((1, 1, 1, 1))))).layers == plain.layers
    first = record(plug_fake, write_twins(widen(np.ones((1, 1, 1, 1))))).layers[0].metrics
    assert math.isnan(first.sqnr_db) and first.degenerate is not None and "shape mismatch" in first.degenerate


def test_the_float_file_is_the_one_that_quantize_names_by_its_digest(write_twins: Write, plug_fake: Plug) -> None:
    def name_parent(digest: str) -> Callable[[onnx.ModelProto], None]:
        text = json.dumps({"stage": "quantize", "params": {}, "parents": {"model": digest}, "tools": {}})
        return lambda model: write_metadata(model, {"mbdeploy.provenance": text})

    floats, _ = write_twins()
    other = floats.with_name("other.onnx")
    model = onnx.load(floats)
    model.producer_name = "another"
    other.write_bytes(model.SerializeToString())
    models = write_twins(name_parent(digest_file(floats)))
    assert record(plug_fake, [models[0], other, models[1]]).origin.name == "f"
    assert record(plug_fake, [models[1], models[0]]).origin.name == "f"
    with pytest.raises(UsageError, match=r"made from \(sha256 .*found other\.onnx, made anew since"):
        record(plug_fake, [other, models[1]])


def test_without_a_name_it_is_the_nearest_float_file_or_the_one_beside(write_twins: Write, plug_fake: Plug) -> None:
    floats, quantized = write_twins()
    with pytest.raises(UsageError, match="none among the models, and none beside it"):
        record(plug_fake, [quantized])
    with pytest.raises(UsageError, match="--layers: expected an INT8 file"):
        record(plug_fake, [floats])
    key = plan([quantized], layers=True).key
    floats.rename(floats.with_name("simplified.onnx"))
    assert record(plug_fake, [quantized]).origin.name == "simplified"
    assert plan([quantized], layers=True).key != key
    assert plan([quantized]).key != plan([quantized], layers=True).key


def test_files_without_a_tensor_in_common_have_a_note_and_no_curve(write_twins: Write, plug_fake: Plug) -> None:
    floats, quantized = write_twins()
    model = onnx.load(floats)
    for node in model.graph.node:
        node.input[:] = [f"{name}_" if name.startswith("c") else name for name in node.input]
        node.output[:] = [f"{name}_" for name in node.output]
    model.graph.output[0].name = "y_"
    floats.write_bytes(model.SerializeToString())
    curve = record(plug_fake, [floats, quantized])
    assert (curve.layers, curve.note) == ((), "it has no QuantizeLinear of a tensor that the float file has")
    assert curve.unpaired == ("q1", "q2", "q3")


def test_the_command_shows_the_curve_and_its_json_holds_the_raw_figures(write_twins: Write, plug_fake: Plug) -> None:
    plug_fake("local", FakeTarget(answer=answer))
    words = ["verify", *map(str, write_twins()), "--layers", "-q"]
    shown = CliRunner().invoke(program, words)
    assert "Along the network: q on cpu" in shown.stdout
    rows = [line.split() for line in shown.stdout.splitlines() if " Conv " in line]
    assert [row[1] for row in rows] == ["conv1", "conv2", "conv3"]
    saved = decode_result(CliRunner().invoke(program, [*words, "--format", "json"]).stdout.encode(), ParityReport)
    assert [row[3] for row in rows] == [f"{row.metrics.sqnr_db:.2f}" for row in saved.layers[0].layers]
    refused = CliRunner().invoke(program, [*words, "--matrix"])
    assert refused.exit_code == 2 and "expected it without --matrix" in refused.stderr
