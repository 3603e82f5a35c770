"""The quantize stage on small graphs: what comes out runs in int8, and the known traps do not spring."""

from __future__ import annotations

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy import artifact, model_file
from mbdeploy.errors import ModelError, UsageError
from mbdeploy.quant.pairsafe import find_clipping
from mbdeploy.records import QuantizeRecord
from mbdeploy.stages.material import METHODS
from mbdeploy.stages.quantize import quantize
from mbdeploy.stages.sections import tabulate_quantize


def run_model(path, images, *, exact=False):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    if exact:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def sqnr_db(reference, output):
    return 10 * np.log10((reference**2).sum() / ((reference - output) ** 2).sum())


def save_graph(path, nodes, weights, *, shape, classes_shape, opset=17):
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, classes_shape)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(autouse=True)
def where_steps_run(request):
    """In this process, but for the test that compares what two processes write."""
    if request.function is not test_the_same_inputs_give_the_same_bytes:
        request.getfixturevalue("without_children")


@pytest.fixture
def images():
    return np.random.default_rng(7).normal(0, 1, (6, 3, 16, 16)).astype(np.float32)


@pytest.fixture
def calibration(tmp_path, images):
    np.savez(tmp_path / "calibration.npz", inputs=images)
    return str(tmp_path / "calibration.npz")


@pytest.fixture
def quantized(conv_model_file, calibration, tmp_path):
    record = quantize(conv_model_file, output=tmp_path / "int8.onnx", calibration=calibration, preprocess="raw")
    return tmp_path / "int8.onnx", record


def test_the_int8_graph_runs_in_int8_between_one_q_and_one_dq(quantized):
    _, record = quantized
    layout = {"Transpose"}  # how ONNX Runtime lays out images depends on the CPU
    assert {name: count for name, count in record.operators.items() if name not in layout} == {
        "DequantizeLinear": 1,
        "Flatten": 1,
        "QGemm": 1,
        "QLinearConv": 1,
        "QLinearGlobalAveragePool": 1,
        "QuantizeLinear": 1,
    }
    assert record.float_nodes == {}


def test_the_file_is_valid_onnx(quantized):
    onnx.checker.check_model(onnx.load(quantized[0]), full_check=True)


def test_executed_equals_exact_and_is_close_to_float(quantized, conv_model_file, images):
    path, _ = quantized
    reference = run_model(conv_model_file, images)
    executed, exact = run_model(path, images), run_model(path, images, exact=True)
    step = (reference.max() - reference.min()) / 255
    assert np.abs(executed - exact).max() <= 1.01 * step
    assert sqnr_db(reference, executed) > 25


@pytest.mark.slow
def test_the_stored_weights_of_portable_cannot_clip_and_those_of_plain_scales_could(
    conv_model_file, calibration, tmp_path
):
    def clipping(recipe):
        path = tmp_path / f"{recipe}.onnx"
        quantize(conv_model_file, output=path, calibration=calibration, preprocess="raw", recipe=recipe)
        stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
        weight = stored["conv.weight_quantized"]
        return find_clipping(np.moveaxis(weight, 1, -1).reshape(len(weight), -1, weight.shape[1]).astype(np.int64))

    assert not clipping("portable").any()
    assert not clipping("reduce-range").any()
    assert clipping("s8s8-symmetric").any()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["portable", "reduce-range", "u8u8", "s8s8-symmetric"])
def test_every_recipe_stays_close_to_float(recipe, conv_model_file, calibration, images, tmp_path):
    path = tmp_path / "int8.onnx"
    quantize(conv_model_file, output=path, calibration=calibration, preprocess="raw", recipe=recipe)
    assert sqnr_db(run_model(conv_model_file, images), run_model(path, images, exact=True)) > 20


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_the_images_does_not_change_a_byte(method, conv_model_file, images, tmp_path):
    files = []
    for name, order in (("forward", images), ("backward", images[::-1])):
        folder = tmp_path / name
        folder.mkdir()
        np.savez(folder / "calibration.npz", inputs=order)
        quantize(
            conv_model_file,
            output=folder / "int8.onnx",
            calibration=str(folder / "calibration.npz"),
            preprocess="raw",
            calibration_method=method,
        )
        model = onnx.load(folder / "int8.onnx")
        del model.metadata_props[:]  # they hold the digest of the calibration file
        files.append(model.SerializeToString(deterministic=True))
    assert files[0] == files[1]


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(conv_model_file, calibration, tmp_path):
    for name in ("a.onnx", "b.onnx"):
        quantize(conv_model_file, output=tmp_path / name, calibration=calibration, preprocess="raw")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


@pytest.mark.slow
def test_a_static_batch_is_calibrated_like_a_dynamic_one(make_conv_model, calibration, tmp_path):
    ranges = []
    for name, batch in (("dynamic", None), ("static", 4)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(make_conv_model(batch=batch).SerializeToString())
        record = quantize(path, output=tmp_path / f"{name}.int8.onnx", calibration=calibration, preprocess="raw")
        ranges.append([end for layer in record.layers for end in layer.output_range])
    assert ranges[0] == pytest.approx(ranges[1], abs=1e-6)


def test_a_bias_shared_by_two_convolutions_gets_a_scale_for_each(calibration, images, tmp_path):
    rng = np.random.default_rng(3)
    weights = {"w1": rng.normal(0, 1, (4, 3, 1, 1)), "w2": rng.normal(0, 30, (4, 4, 1, 1)), "b": [1.0, -1.0, 2.0, -2.0]}
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b"], ["x"], "c1"),
        helper.make_node("Conv", ["x", "w2", "b"], ["out"], "c2"),
    ]
    source = save_graph(tmp_path / "m.onnx", nodes, weights, shape=["n", 3, 16, 16], classes_shape=["n", 4, 16, 16])
    quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    assert sqnr_db(run_model(source, images), run_model(tmp_path / "q.onnx", images)) > 25


def test_a_depthwise_channel_with_tiny_weights_does_not_overflow_its_bias(calibration, images, tmp_path):
    weight = np.full((3, 1, 3, 3), 0.1)
    weight[1] = 1e-12
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["out"], "dw", group=3, pads=[1, 1, 1, 1])]
    source = save_graph(
        tmp_path / "m.onnx",
        nodes,
        {"w": weight, "b": [0.5, 3.0, -0.5]},
        shape=["n", 3, 16, 16],
        classes_shape=["n", 3, 16, 16],
    )
    quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    output = run_model(tmp_path / "q.onnx", images)
    assert np.abs(output[:, 1] - 3.0).max() < 0.05


def test_rounding_does_not_move_the_mean_of_an_output(calibration, images, tmp_path):
    rng = np.random.default_rng(5)
    weight = rng.normal(0, 0.02, (8, 3, 1, 1))
    weight[:, 0] += 1.0  # one large weight makes the steps of the others coarse
    positive = np.abs(images) + 1
    np.savez(tmp_path / "positive.npz", inputs=positive)
    nodes = [helper.make_node("Conv", ["image", "w"], ["out"], "c1")]
    source = save_graph(
        tmp_path / "m.onnx", nodes, {"w": weight}, shape=["n", 3, 16, 16], classes_shape=["n", 8, 16, 16]
    )
    quantize(source, output=tmp_path / "q.onnx", calibration=str(tmp_path / "positive.npz"))
    moved = (run_model(tmp_path / "q.onnx", positive) - run_model(source, positive)).mean(axis=(0, 2, 3))
    assert np.abs(moved).max() < 2e-3


def test_alpha_and_beta_of_a_gemm_are_kept(calibration, images, tmp_path):
    rng = np.random.default_rng(6)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"], "pool"),
        helper.make_node("Flatten", ["p"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w", "b"], ["out"], "fc", alpha=2.0, beta=0.5),
    ]
    weights = {"w": rng.normal(0, 1, (3, 5)), "b": rng.normal(0, 1, 5)}
    source = save_graph(tmp_path / "m.onnx", nodes, weights, shape=["n", 3, 16, 16], classes_shape=["n", 5])
    quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    assert sqnr_db(run_model(source, images), run_model(tmp_path / "q.onnx", images)) > 25


def test_an_all_zero_channel_and_a_dead_activation_get_usable_scales(calibration, images, tmp_path):
    weight = np.zeros((4, 3, 1, 1))
    weight[0, 0] = 1.0
    nodes = [
        helper.make_node("Conv", ["image", "w", "b"], ["x"], "c1"),
        helper.make_node("Relu", ["x"], ["y"], "r1"),
        helper.make_node("Conv", ["y", "dead"], ["out"], "c2"),
    ]
    source = save_graph(
        tmp_path / "m.onnx",
        nodes,
        {"w": weight, "b": [-100.0, -1.0, -1.0, -1.0], "dead": np.ones((2, 4, 1, 1))},
        shape=["n", 3, 16, 16],
        classes_shape=["n", 2, 16, 16],
    )
    quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    stored = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "q.onnx").graph.initializer if "scale" in t.name]
    assert all((np.isfinite(scale) & (scale > 0)).all() for scale in stored)
    assert np.abs(run_model(tmp_path / "q.onnx", images)).max() == 0.0


def test_a_clip_that_leaves_out_zero_stays_in_float_and_is_right(calibration, images, tmp_path):
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"], "c1"),
        helper.make_node("Clip", ["x", "one", "six"], ["out"], "clip"),
    ]
    source = save_graph(
        tmp_path / "m.onnx",
        nodes,
        {"w": np.random.default_rng(0).normal(0, 2, (4, 3, 1, 1)), "one": np.float32(1), "six": np.float32(6)},
        shape=["n", 3, 16, 16],
        classes_shape=["n", 4, 16, 16],
    )
    record = quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    assert list(record.float_nodes) == ["clip"]
    assert run_model(tmp_path / "q.onnx", images).min() == 1.0


def test_the_record_says_what_plain_scales_would_have_clipped(quantized):
    _, record = quantized
    conv, gemm = record.layers
    assert (conv.operator, gemm.operator) == ("Conv", "Gemm")
    assert 0 < conv.clipping <= 1
    assert 1.0 < conv.growth_mean <= conv.growth_max <= 2.0
    assert conv.output_range[0] == 0.0


def test_a_depthwise_layer_keeps_all_eight_bits(calibration, tmp_path):
    nodes = [helper.make_node("Conv", ["image", "w"], ["out"], "dw", group=3, pads=[1, 1, 1, 1])]
    weight = np.random.default_rng(0).normal(0, 1, (3, 1, 3, 3))
    source = save_graph(
        tmp_path / "m.onnx", nodes, {"w": weight}, shape=["n", 3, 16, 16], classes_shape=["n", 3, 16, 16]
    )
    record = quantize(source, output=tmp_path / "q.onnx", calibration=calibration, preprocess="raw")
    assert record.layers[0].depthwise
    assert record.layers[0].growth_max == pytest.approx(1.0, abs=1e-6)


def test_the_file_carries_its_preprocessing_and_provenance(quantized):
    path, record = quantized
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert metadata["mbdeploy.stage"] == "int8"
    assert '"recipe":"accurate"' in metadata["mbdeploy.provenance"]
    assert '"size":16' in metadata["mbdeploy.preprocess"]
    sidecar = artifact.read_sidecar(path)
    assert sidecar.sha256 == artifact.digest_file(path)
    assert record.samples == 6


def test_the_table_says_where_channels_of_zeros_were_added_and_older_records_have_none(quantized):
    _, record = quantized
    older = msgspec.to_builtins(record)
    del older["widened"]
    assert msgspec.convert(older, QuantizeRecord).widened == {}
    assert "channels of zeros added" not in dict(tabulate_quantize(record)[0].rows)
    wide = msgspec.structs.replace(record, widened={"a": (3, 4), "b": (72, 80), "c": (72, 80)})
    assert dict(tabulate_quantize(wide)[0].rows)["channels of zeros added"] == "3 layers: 3 -> 4, 72 -> 80"


def test_the_table_says_that_gates_run_as_bytes(quantized):
    _, record = quantized
    assert record.gates == () and "hard sigmoids as bytes" not in dict(tabulate_quantize(record)[0].rows)
    gated = msgspec.structs.replace(record, gates=("a_gate", "b_gate"))
    assert dict(tabulate_quantize(gated)[0].rows)["hard sigmoids as bytes"] == "2; not for QNN (docs/providers.md)"


def refuse(model, tmp_path, error, **options):
    output = tmp_path / "refused" / "int8.onnx"
    with pytest.raises(error) as caught:
        quantize(model, output=output, **options)
    left = list(output.parent.iterdir()) if output.parent.exists() else []
    assert left == []
    return str(caught.value)


def test_arrays_need_no_preprocess(conv_model_file, calibration, tmp_path):
    record = quantize(conv_model_file, output=tmp_path / "int8.onnx", calibration=calibration)
    assert record.samples == 6
    assert model_file.read_preprocess(onnx.load(tmp_path / "int8.onnx")) is None


def test_a_foreign_file_with_images_but_without_preprocess_is_refused(conv_model_file, photo_folder, tmp_path):
    text = refuse(conv_model_file, tmp_path, UsageError, calibration=str(photo_folder))
    assert "give --preprocess" in text


def test_an_unknown_recipe_or_method_is_refused(conv_model_file, calibration, tmp_path):
    text = refuse(conv_model_file, tmp_path, UsageError, calibration=calibration, recipe="best")
    assert "portable" in text
    text = refuse(conv_model_file, tmp_path, UsageError, calibration=calibration, calibration_method="median")
    assert "entropy" in text


def test_a_quantized_file_is_refused(quantized, calibration, tmp_path):
    text = refuse(quantized[0], tmp_path, ModelError, calibration=calibration, preprocess="raw")
    assert "quantized already" in text


def test_a_file_that_is_quantized_as_it_runs_is_refused(make_conv_model, calibration, tmp_path):
    model = make_conv_model()
    model.graph.node.insert(0, onnx.helper.make_node("DynamicQuantizeLinear", ["image"], ["q", "s", "z"]))
    onnx.save(model, tmp_path / "dynamic.onnx")
    text = refuse(tmp_path / "dynamic.onnx", tmp_path, ModelError, calibration=calibration, preprocess="raw")
    assert "quantized already" in text


def test_nan_weights_are_refused_by_name(make_conv_model, calibration, tmp_path):
    model = make_conv_model()
    weight = next(t for t in model.graph.initializer if t.name == "conv.weight")
    values = numpy_helper.to_array(weight).copy()
    values[0, 0, 0, 0] = np.nan
    weight.CopyFrom(numpy_helper.from_array(values, "conv.weight"))
    (tmp_path / "nan.onnx").write_bytes(model.SerializeToString())
    text = refuse(tmp_path / "nan.onnx", tmp_path, ModelError, calibration=calibration, preprocess="raw")
    assert "conv.weight" in text


def test_an_old_opset_is_refused(make_conv_model, calibration, tmp_path):
    model = make_conv_model()
    model.opset_import[0].version = 11
    (tmp_path / "old.onnx").write_bytes(model.SerializeToString())
    text = refuse(tmp_path / "old.onnx", tmp_path, ModelError, calibration=calibration, preprocess="raw")
    assert "opset 11" in text


def test_images_of_another_shape_are_refused(conv_model_file, tmp_path):
    np.savez(tmp_path / "small.npz", inputs=np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    text = refuse(conv_model_file, tmp_path, UsageError, calibration=str(tmp_path / "small.npz"), preprocess="raw")
    assert "small.npz" in text and "(3, 8, 8)" in text


def test_a_missing_model_is_refused(calibration, tmp_path):
    text = refuse(tmp_path / "none.onnx", tmp_path, ModelError, calibration=calibration, preprocess="raw")
    assert "no such file" in text
