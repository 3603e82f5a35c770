"""Accuracy recovery on small graphs: nearer to float than portable, safe, reproducible, and never a reason to fail."""

from __future__ import annotations

import itertools
import tracemalloc

import msgspec
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from mbdeploy.errors import StepError, UsageError
from mbdeploy.quant import observing, prepare, recipes, recover
from mbdeploy.quant.layers import find_layers, view_reduction
from mbdeploy.quant.pairsafe import find_clipping
from mbdeploy.quant.recipes import TECHNIQUES, find_recipe, list_techniques
from mbdeploy.stages import quantize_job
from mbdeploy.stages.quantize import quantize
from mbdeploy.watch import Limits

node = helper.make_node


def draw(*shape, seed=0, spread=1.0):
    return np.random.default_rng(seed).normal(0, spread, shape)


def sqnr_db(reference, output):
    return 10 * np.log10((reference**2).sum() / ((reference - output) ** 2).sum())


@pytest.fixture(scope="session")
def small_net(make_graph):
    """Conv 3x3, depthwise, 1x1, global pooling, Gemm, with ReLUs between: every kind of layer of a MobileNet."""
    nodes = [
        node("Conv", ["image", "w1", "b1"], ["a"], "stem", pads=[1] * 4),
        node("Relu", ["a"], ["b"], "r1"),
        node("Conv", ["b", "w2", "b2"], ["c"], "depthwise", group=8, pads=[1] * 4),
        node("Relu", ["c"], ["d"], "r2"),
        node("Conv", ["d", "w3", "b3"], ["e"], "pointwise"),
        node("Relu", ["e"], ["f"], "r3"),
        node("GlobalAveragePool", ["f"], ["g"], "pool"),
        node("Flatten", ["g"], ["h"], "flatten"),
        node("Gemm", ["h", "w4", "b4"], ["out"], "fc", transB=1),
    ]
    constants = {
        "w1": draw(8, 3, 3, 3, seed=1), "b1": draw(8, seed=2), "w2": draw(8, 1, 3, 3, seed=3), "b2": draw(8, seed=4),
        "w3": draw(16, 8, 1, 1, seed=5), "b3": draw(16, seed=6), "w4": draw(10, 16, seed=7), "b4": draw(10, seed=8),
    }  # fmt: skip
    return make_graph(nodes, constants)


@pytest.fixture(scope="session")
def images(draw_images):
    return draw_images(24)


@pytest.fixture(scope="session")
def held_out(draw_images):
    return draw_images(16, seed=9)


def find_clipping_layers(model, int8):
    """Layers of ``model``, not depthwise, whose weights as stored in ``int8`` could saturate in some channel."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    found = []
    for layer in find_layers(model):
        clipping = find_clipping(view_reduction(stored[f"{layer.weight}_quantized"], layer))
        found += [layer.node] if clipping.any() and not layer.depthwise else []
    return found


def test_recovered_weights_are_nearer_to_float_on_images_never_seen(
    small_net, images, held_out, quantize_here, run_graph
):
    reference = run_graph(small_net, held_out)[0]
    found = {}
    for recipe in ("accurate", "portable"):
        int8, _ = quantize_here(small_net, images, recipe=recipe)
        found[recipe] = sqnr_db(reference, run_graph(int8, held_out)[0])
    assert found["accurate"] > found["portable"] + 0.5
    assert found["accurate"] > 40.0


def test_what_is_recovered_cannot_clip_and_executed_equals_exact(small_net, images, held_out, quantize_here, run_graph):
    int8, record = quantize_here(small_net, images)
    assert find_clipping_layers(small_net, int8) == []
    step = max(layer.output_range[1] - layer.output_range[0] for layer in record.layers[-1:]) / 255
    executed, exact = run_graph(int8, held_out)[0], run_graph(int8, held_out, exact=True)[0]
    assert np.abs(executed - exact).max() <= 1.01 * step


def test_the_record_tells_what_each_layer_gained_and_portable_has_nothing_to_tell(small_net, images, quantize_here):
    _, record = quantize_here(small_net, images)
    assert record.techniques == ("refit", "feedback", "bias")
    assert record.method == "mse"
    for layer in record.layers[:3]:
        before, after = layer.recovered_db
        assert 20 < before <= after
    _, record = quantize_here(small_net, images, recipe="portable")
    assert record.techniques == ("bias",)
    assert [layer.recovered_db for layer in record.layers] == [None] * 4


@pytest.mark.slow
def test_every_technique_can_be_left_out_and_makes_a_difference(small_net, images, quantize_here):
    files = {}
    for count in range(4):
        for without in itertools.combinations(TECHNIQUES, count):
            int8, record = quantize_here(small_net, images, without=without)
            assert set(record.techniques) == set(TECHNIQUES) - set(without)
            assert find_clipping_layers(small_net, int8) == []
            files[without] = int8.graph.SerializeToString(deterministic=True)
    assert len(set(files.values())) == len(files) == 8


@pytest.mark.parametrize("without", [(), ("bias",), ("feedback",), ("feedback", "bias"), ("refit", "bias")])
def test_layers_are_fitted_to_the_model_that_is_written(
    without, small_net, images, quantize_here, run_graph, monkeypatch
):
    fitted_on = []

    def watch(model, placed, *arguments, **keywords):
        fitted_on.append(placed)
        return recover.recover(model, placed, *arguments, **keywords)

    monkeypatch.setattr(quantize_job, "recover", watch)
    strong = onnx.ModelProto()  # large biases and one outlier a filter, so that scales move and a wrong bias is seen
    strong.CopyFrom(small_net)
    for tensor in strong.graph.initializer:
        values = numpy_helper.to_array(tensor) * (5 if tensor.name.startswith("b") else 1)
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    int8, _ = quantize_here(strong, images, without=without)
    names = [
        name
        for name in (f"{tensor}_QuantizeLinear_Output" for tensor in "bdfgh")
        if any(name in item.output for item in int8.graph.node)
    ]
    assert len(names) >= 3
    written, used = run_graph(int8, images[:4], names), run_graph(fitted_on[0], images[:4], names)
    for first, second in zip(written, used, strict=True):
        np.testing.assert_array_equal(first[:, : second.shape[1]], second)  # the file has channels of zeros besides


@pytest.mark.slow
def test_neither_the_order_of_the_images_nor_the_number_of_threads_changes_a_byte(small_net, images, quantize_here):
    plain, _ = quantize_here(small_net, images)
    order = np.random.default_rng(0).permutation(len(images))
    for changed, threads in ((images[order], 1), (images[::-1], 2)):
        other, _ = quantize_here(small_net, changed, threads=threads)
        assert other.graph.SerializeToString(deterministic=True) == plain.graph.SerializeToString(deterministic=True)


MATRIX = {"w": draw(12, 16)}
PLAIN_SHAPE = np.array([0, 3, 144], np.int64)
ODD_GRAPHS = {
    "a convolution without bias": ([node("Conv", ["image", "w"], ["out"], "c")], {"w": draw(5, 3, 3, 3)}),
    "one output channel": ([node("Conv", ["image", "w"], ["out"], "c")], {"w": draw(1, 3, 3, 3)}),
    "a kernel as large as the image": (
        [
            node("MaxPool", ["image"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
            node("Conv", ["p", "w"], ["out"], "c"),
        ],
        {"w": draw(4, 3, 6, 6)},
    ),
    "one dimension": (
        [
            node("Reshape", ["image", "s"], ["t"], "r"),
            node("Conv", ["t", "w", "b"], ["a"], "c1"),
            node("Conv", ["a", "v"], ["out"], "c2"),
        ],
        {"s": PLAIN_SHAPE, "w": draw(6, 3, 3), "b": draw(6), "v": draw(4, 6, 1)},
    ),
    "three dimensions": (
        [node("Reshape", ["image", "s"], ["t"], "r"), node("Conv", ["t", "w", "b"], ["out"], "c")],
        {"s": np.array([0, 3, 4, 6, 6], np.int64), "w": draw(6, 3, 3, 3, 3), "b": draw(6)},
    ),
    "a product of rows": (
        [node("Reshape", ["image", "s"], ["t"], "r"), node("MatMul", ["t", "w"], ["out"], "m")],
        {"s": np.array([0, 36, 12], np.int64), **MATRIX},
    ),
    "a product over four axes": ([node("MatMul", ["image", "w"], ["out"], "m")], MATRIX),
    "groups": (
        [node("Conv", ["image", "w", "b"], ["a"], "c1"), node("Conv", ["a", "v"], ["out"], "c2", group=2)],
        {"w": draw(6, 3, 1, 1), "b": draw(6), "v": draw(4, 3, 3, 3)},
    ),
    "two outputs a depthwise channel": (
        [node("Conv", ["image", "w"], ["out"], "c", group=3, auto_pad="SAME_UPPER", strides=[2, 2])],
        {"w": draw(6, 1, 3, 3)},
    ),
    "a weight of two layers": (
        [node("Conv", ["image", "w", "b"], ["a"], "c1"), node("Conv", ["a", "w", "b"], ["out"], "c2")],
        {"w": draw(3, 3, 1, 1), "b": draw(3)},
    ),
    "an input of two layers": (
        [
            node("Conv", ["image", "w"], ["a"], "c1"),
            node("Conv", ["image", "v"], ["b"], "c2"),
            node("Add", ["a", "b"], ["out"], "add"),
        ],
        {"w": draw(4, 3, 1, 1), "v": draw(4, 3, 1, 1, seed=1)},
    ),
    "one bias for all outputs": (
        [
            node("GlobalAveragePool", ["image"], ["p"], "pool"),
            node("Flatten", ["p"], ["f"], "flat"),
            node("Gemm", ["f", "w", "b"], ["out"], "fc"),
        ],
        {"w": draw(3, 5), "b": np.array([0.5])},
    ),
    "a bias with a row's shape": (
        [
            node("GlobalAveragePool", ["image"], ["p"], "pool"),
            node("Flatten", ["p"], ["f"], "flat"),
            node("Gemm", ["f", "w", "b"], ["out"], "fc"),
        ],
        {"w": draw(3, 5), "b": draw(1, 5)},
    ),
    "a dead input": (
        [
            node("Conv", ["image", "w", "b"], ["a"], "c1"),
            node("Relu", ["a"], ["r"], "relu"),
            node("Conv", ["r", "v", "c"], ["x"], "c2"),
            node("Conv", ["image", "u"], ["y"], "c3"),
            node("Add", ["x", "y"], ["out"], "add"),
        ],
        {"w": draw(4, 3, 1, 1), "b": np.full(4, -99.0), "v": draw(2, 4, 1, 1), "c": draw(2), "u": draw(2, 3, 1, 1)},
    ),
    "a channel of zeros": (
        [node("Conv", ["image", "w", "b"], ["out"], "c")],
        {"w": draw(4, 3, 1, 1) * np.array([1, 0, 1, 1]).reshape(4, 1, 1, 1), "b": draw(4)},
    ),
    "a layer that stays in float": (
        [
            node("Conv", ["image", "w", "b"], ["a"], "c1"),
            node("HardSwish", ["a"], ["h"], "hs"),
            node("ConvTranspose", ["h", "u"], ["t"], "up"),
            node("Conv", ["t", "v"], ["out"], "c2"),
        ],
        {"w": draw(4, 3, 3, 3), "b": draw(4), "u": draw(4, 4, 2, 2), "v": draw(2, 4, 1, 1)},
    ),
    "an unnamed node beside one that has its name": (
        [
            node("Conv", ["image", "w", "b"], ["a"]),
            node("Conv", ["a", "v"], ["c"], "Conv_0"),
            node("Conv", ["c", "v"], ["out"], "Conv_1"),
        ],
        {"w": draw(4, 3, 3, 3), "b": draw(4), "v": draw(4, 4, 1, 1)},
    ),
    "constants that have the names of copies": (
        [
            node("Conv", ["image", "w"], ["a"], "c"),
            node("Add", ["a", "c_bias"], ["d"], "add"),
            node("Conv", ["d", "w", "b"], ["e"], "c2"),
            node("Conv", ["e", "w_2", "b"], ["out"], "c3"),
        ],
        {"w": draw(3, 3, 1, 1), "c_bias": draw(3, 1, 1), "b": draw(3), "w_2": draw(3, 3, 1, 1, seed=1)},
    ),
    "a constant of a layer and of a node in float": (
        [
            node("Conv", ["image", "w", "zeros"], ["a"], "c"),
            node("BatchNormalization", ["a", "ones", "zeros", "zeros", "ones"], ["out"], "bn"),
        ],
        {"w": draw(4, 3, 3, 3), "zeros": np.zeros(4), "ones": np.ones(4)},
    ),
    "a bias that is computed": (
        [node("Sqrt", ["b"], ["r"], "root"), node("Conv", ["image", "w", "r"], ["out"], "c")],
        {"w": draw(4, 3, 3, 3), "b": np.full(4, 400.0)},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD_GRAPHS)
def test_every_kind_of_layer_comes_through_and_loses_nothing_to_portable(
    name, make_graph, images, held_out, quantize_here, run_graph
):
    model = make_graph(*ODD_GRAPHS[name])
    reference = run_graph(model, held_out)[0]
    plain, _ = quantize_here(model, images, recipe="portable", calibration_method="mse")
    int8, record = quantize_here(model, images)
    output = run_graph(int8, held_out)[0]
    assert output.shape == reference.shape
    assert sqnr_db(reference, output) > sqnr_db(reference, run_graph(plain, held_out)[0]) - 0.5
    assert find_clipping_layers(prepare.prepare_model(model), int8) == []
    known = "dimension" not in name and "computed" not in name
    assert all((layer.recovered_db is not None) is known for layer in record.layers)


def test_weights_that_are_inputs_of_an_old_file_are_not_taken_for_the_image(
    small_net, images, held_out, quantize_here, run_graph
):
    old = onnx.ModelProto()
    old.CopyFrom(small_net)
    image = old.graph.input.pop()
    for tensor in old.graph.initializer:
        old.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    old.graph.input.append(image)
    int8, _ = quantize_here(old, images)
    assert sqnr_db(run_graph(small_net, held_out)[0], run_graph(int8, held_out)[0]) > 35


def test_a_layer_without_a_bias_does_not_move_the_mean_of_its_output(make_graph, quantize_here, run_graph):
    rng = np.random.default_rng(0)
    inputs = rng.normal(0, 1, (72, 1, 24, 8)) @ rng.normal(0, 1, (8, 64)) + rng.normal(0, 0.3, (72, 1, 24, 64))
    inputs = np.maximum(inputs / inputs.std() + 6, 0).astype(np.float32)
    nodes = [node("Squeeze", ["image", "axis"], ["t"], "sq"), node("MatMul", ["t", "w"], ["out"], "m")]
    constants = {"axis": np.array([1], np.int64), "w": draw(64, 16)}
    model = make_graph(nodes, constants, shape=("n", 1, 24, 64))
    reference = run_graph(model, inputs[48:])[0]
    moved = {}
    for recipe in ("portable", "accurate"):
        output = run_graph(quantize_here(model, inputs[:48], recipe=recipe)[0], inputs[48:])[0]
        moved[recipe] = np.abs((output - reference).mean(axis=(0, 1))).max()
    assert moved["accurate"] < 0.5 * moved["portable"]


def test_a_static_batch_gives_the_weights_of_a_dynamic_one(small_net, images, quantize_here):
    static = onnx.ModelProto()
    static.CopyFrom(small_net)
    static.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    del static.graph.value_info[:], static.graph.output[0].type.tensor_type.shape.dim[:]
    stored = []
    for model in (small_net, onnx.shape_inference.infer_shapes(static)):
        int8, _ = quantize_here(model, images)
        stored.append({t.name: numpy_helper.to_array(t) for t in int8.graph.initializer if "_quantized" in t.name})
    assert stored[0].keys() == stored[1].keys()
    for name in stored[0]:
        assert np.abs(stored[0][name].astype(np.int64) - stored[1][name]).max() <= 1, name


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_images_are_enough_to_work(count, small_net, images, held_out, quantize_here, run_graph):
    int8, record = quantize_here(small_net, images[:count])
    plain, _ = quantize_here(small_net, images[:count], recipe="portable", calibration_method="mse")
    reference = run_graph(small_net, held_out)[0]
    found = sqnr_db(reference, run_graph(int8, held_out)[0])
    assert found > sqnr_db(reference, run_graph(plain, held_out)[0]) - 0.5
    assert all(np.isfinite(layer.recovered_db).all() for layer in record.layers)


def test_the_same_image_many_times_is_finite(small_net, images, quantize_here, run_graph):
    int8, _ = quantize_here(small_net, np.repeat(images[:1], 5, axis=0))
    assert np.isfinite(run_graph(int8, images)[0]).all()


@pytest.mark.parametrize("signed_activations", [False, True])
def test_a_plug_in_recipe_with_unsigned_weights_is_fitted_to_what_is_written(
    signed_activations, small_net, images, held_out, quantize_here, run_graph, monkeypatch
):
    made = msgspec.structs.replace(
        find_recipe("accurate"), name="mine", signed_weights=signed_activations, signed_activations=signed_activations
    )
    monkeypatch.setitem(recipes.RECIPES, "mine", made)
    int8, _ = quantize_here(small_net, images, recipe="mine")
    assert sqnr_db(run_graph(small_net, held_out)[0], run_graph(int8, held_out)[0]) > 36


def test_a_plug_in_recipe_may_let_pairs_saturate_and_then_some_can(small_net, images, quantize_here, monkeypatch):
    careless = msgspec.structs.replace(
        find_recipe("accurate"), name="mine", weight_scales=recipes.scale_plainly, pair_safe=False
    )
    monkeypatch.setitem(recipes.RECIPES, "mine", careless)
    assert find_clipping_layers(small_net, quantize_here(small_net, images, recipe="accurate")[0]) == []
    assert find_clipping_layers(small_net, quantize_here(small_net, images, recipe="mine")[0]) != []


def test_memory_does_not_grow_with_the_number_of_images(make_graph, draw_images, quantize_here, monkeypatch):
    peaks = []

    def watch(*arguments, **keywords):
        tracemalloc.start()
        found = recover.recover(*arguments, **keywords)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return found

    monkeypatch.setattr(observing, "_SAMPLES", 0)
    monkeypatch.setattr(quantize_job, "recover", watch)
    model = make_graph([node("Conv", ["image", "w"], ["out"], "c")], {"w": draw(512, 3, 1, 1)}, shape=("n", 3, 4, 4))
    for count in (8, 72):
        quantize_here(model, draw_images(count, size=4), calibration_method="minmax")
    assert peaks[1] - peaks[0] < 300_000  # the outputs of 64 more images are 2 MB


def test_a_layer_too_wide_for_a_covariance_keeps_its_rounding(make_graph, images, quantize_here, monkeypatch):
    monkeypatch.setattr(observing, "_MOST_PRODUCTS", 200**2)
    nodes = [
        node("Conv", ["image", "w"], ["a"], "c1"),
        node("Flatten", ["a"], ["f"], "flat"),
        node("Gemm", ["f", "v"], ["out"], "fc"),
    ]
    model = make_graph(nodes, {"w": draw(3, 3, 1, 1), "v": draw(432, 4)})
    int8, record = quantize_here(model, images)
    assert [layer.recovered_db is None for layer in record.layers] == [False, True]
    assert find_clipping_layers(model, int8) == []


def test_a_layer_too_wide_for_a_covariance_has_its_bias_corrected_all_the_same(
    make_graph, images, quantize_here, run_graph, monkeypatch
):
    monkeypatch.setattr(observing, "_MOST_PRODUCTS", 200**2)
    positive = np.abs(images) + 1
    wide = 0.02 * draw(432, 4)
    wide[0] += 1  # one large weight makes the steps of the others coarse
    nodes = [node("Flatten", ["image"], ["f"], "flat"), node("Gemm", ["f", "v", "b"], ["out"], "fc")]
    model = make_graph(nodes, {"v": wide, "b": draw(4)})
    reference = run_graph(model, positive)[0]

    def measure_shift(*without: str) -> float:
        int8, record = quantize_here(model, positive, without=without)
        assert [layer.recovered_db is None for layer in record.layers] == [True]
        return float(np.abs((run_graph(int8, positive)[0] - reference).mean(axis=0)).max())

    assert measure_shift() < 0.5 * measure_shift("bias")


def test_an_unknown_technique_is_refused_by_name():
    with pytest.raises(UsageError, match=r"smoothing: expected a technique .refit, feedback, bias., found no such"):
        list_techniques(find_recipe("accurate"), ["bias", "smoothing"])


def test_techniques_left_out_are_gone_and_those_a_recipe_lacks_may_be_left_out_too():
    assert list_techniques(find_recipe("accurate"), ["feedback"]) == ("refit", "bias")
    assert list_techniques(find_recipe("portable"), ["refit", "feedback"]) == ("bias",)
    assert list_techniques(find_recipe("portable"), ["bias", "bias"]) == ()


@pytest.mark.slow
@pytest.mark.parametrize("wall_s", [None, 0.2])
def test_the_scratch_folder_is_gone_afterwards_and_after_a_failure(wall_s, small_net, images, tmp_path):
    (tmp_path / "float.onnx").write_bytes(small_net.SerializeToString())
    np.savez(tmp_path / "calibration.npz", inputs=images)
    output = tmp_path / "made" / "int8.onnx"
    request = {"output": output, "calibration": str(tmp_path / "calibration.npz")}
    if wall_s is None:
        quantize(tmp_path / "float.onnx", **request)
        assert sorted(path.name for path in output.parent.iterdir()) == ["int8.onnx", "int8.onnx.json"]
    else:
        with pytest.raises(StepError, match="TIMEOUT"):
            quantize(tmp_path / "float.onnx", **request, limits=Limits(wall_s=wall_s))
        assert list(output.parent.iterdir()) == []
