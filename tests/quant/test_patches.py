"""Patches: times the weights in reduction order they are the layer's own output, whatever its attributes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from mbdeploy.quant.layers import find_layers, view_reduction
from mbdeploy.quant.patches import (
    Window,
    choose_positions,
    count_positions,
    read_window,
    take_outputs,
    take_patches,
)


def run_layer(node, weight, image):
    """The layer's real output for a float input, by ONNX Runtime, and what ``find_layers`` says of it."""
    import onnxruntime

    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, image.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": image})[0], find_layers(model)[0]


def multiply(patches, view):
    """Patches (groups, positions, terms) times weights (channels, positions of the kernel, cin)."""
    groups = len(patches)
    weights = view.reshape(groups, len(view) // groups, -1)
    return np.matmul(patches, weights.transpose(0, 2, 1)).transpose(1, 0, 2).reshape(patches.shape[1], -1)


@st.composite
def convolutions(draw):
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    kernel, strides = draw(pairs), draw(pairs)
    padding = draw(st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    spread = 1 if padding.startswith("SAME") else 2  # ONNX Runtime refuses SAME with dilations
    dilations = draw(st.tuples(st.integers(1, spread), st.integers(1, spread)))
    groups = draw(st.integers(1, 3))
    cin, rows = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    attributes = {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "group": groups}
    if padding == "NOTSET":
        attributes["pads"] = draw(st.lists(st.integers(0, 2), min_size=4, max_size=4))
    else:
        attributes["auto_pad"] = padding
    reach = [(side - 1) * rate + 1 for side, rate in zip(kernel, dilations, strict=True)]
    size = [draw(st.integers(length, length + 4)) for length in reach]
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    image = rng.integers(0, 256, (1, groups * cin, *size), dtype=np.uint8)
    weight = rng.integers(-127, 128, (groups * rows, cin, *kernel)).astype(np.float32)
    return attributes, image, weight, draw(st.integers(0, 255)), draw(st.integers(1, 12))


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_patches_times_weights_are_the_convolution_at_the_chosen_positions(drawn):
    attributes, image, weight, zero_point, wanted = drawn
    node = helper.make_node("Conv", ["x", "w"], ["y"], "c", **attributes)
    output, layer = run_layer(node, weight, image.astype(np.float32) - zero_point)
    window = read_window(node, weight.shape, image.shape)
    positions = choose_positions(count_positions(output.shape, layer), wanted, (1, 2))
    patches = take_patches(image, zero_point, window, positions, output.shape[-1])
    assert patches.dtype == np.float32
    assert patches.shape == (window.groups, len(positions), weight[0].size)
    np.testing.assert_array_equal(
        multiply(patches, view_reduction(weight, layer)), take_outputs(output, layer, positions)
    )


@pytest.mark.parametrize("signed", [False, True])
def test_signed_and_unsigned_inputs_give_the_same_patches(signed):
    values = np.arange(-128, 128).reshape(1, 1, 16, 16)
    stored, zero_point = (values.astype(np.int8), 0) if signed else ((values + 128).astype(np.uint8), 128)
    patches = take_patches(stored, zero_point, Window(), np.array([0, 255]), 16)
    assert patches.reshape(-1).tolist() == [-128.0, 127.0]


@pytest.mark.parametrize(("operator", "attributes"), [("MatMul", {}), ("Gemm", {}), ("Gemm", {"transB": 1})])
def test_rows_times_weights_are_the_matrix_product(operator, attributes):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (9, 6), dtype=np.uint8)
    weight = rng.integers(-127, 128, (4, 6) if attributes else (6, 4)).astype(np.float32)
    node = helper.make_node(operator, ["x", "w"], ["y"], "m", **attributes)
    output, layer = run_layer(node, weight, rows.astype(np.float32) - 7)
    window = read_window(node, weight.shape, rows.shape)
    positions = choose_positions(count_positions(output.shape, layer), 5, (0,))
    patches = take_patches(rows, 7, window, positions, output.shape[-1])
    np.testing.assert_array_equal(
        multiply(patches, view_reduction(weight, layer)), take_outputs(output, layer, positions)
    )


@pytest.mark.parametrize("shape", [(2, 5, 6), (1, 2, 5, 6), (2, 3, 2, 6)])
def test_a_product_of_a_stack_of_matrices_with_one_takes_its_rows_and_not_image_patches(shape):
    rng = np.random.default_rng(0)
    stack = rng.integers(0, 256, shape, dtype=np.uint8)
    weight = rng.integers(-127, 128, (6, 4)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], "m")
    output, layer = run_layer(node, weight, stack.astype(np.float32) - 7)
    positions = np.array([0, 3, 9])
    patches = take_patches(stack, 7, read_window(node, weight.shape, shape), positions, output.shape[-1])
    np.testing.assert_array_equal(
        multiply(patches, view_reduction(weight, layer)), take_outputs(output, layer, positions)
    )


def test_padding_counts_as_zero_and_not_as_the_zero_point():
    image = np.full((1, 1, 2, 2), 9, np.uint8)
    window = Window(kernel=(3, 3), pads=(1, 1))
    patches = take_patches(image, 4, window, np.array([0]), 2)
    assert patches.reshape(3, 3).tolist() == [[0.0, 0.0, 0.0], [0.0, 5.0, 5.0], [0.0, 5.0, 5.0]]


def test_terms_are_ordered_by_row_then_column_then_channel():
    image = np.arange(8, dtype=np.uint8).reshape(1, 2, 2, 2)
    patches = take_patches(image, 0, Window(kernel=(2, 2)), np.array([0]), 1)
    assert patches.reshape(-1).tolist() == [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]


@pytest.mark.parametrize("kernel", [(4, 3, 3), (4, 3, 3, 3, 3)])
def test_a_convolution_of_one_or_three_dimensions_has_no_window(kernel):
    node = helper.make_node("Conv", ["x", "w"], ["y"], "c")
    assert read_window(node, kernel, (1, 3, *(5 for _ in kernel[2:]))) is None


def test_a_conv_without_attributes_moves_by_one_without_padding():
    node = helper.make_node("Conv", ["x", "w"], ["y"], "c")
    assert read_window(node, (4, 3, 5, 1), (1, 3, 8, 8)) == Window(kernel=(5, 1))


@given(st.integers(0, 300), st.integers(1, 64), st.integers(0, 2**32 - 1))
def test_positions_are_a_sorted_draw_without_repeats_that_the_seed_decides(count, wanted, key):
    positions = choose_positions(count, wanted, (3, key))
    assert len(positions) == min(count, wanted)
    assert (np.diff(positions) > 0).all()
    assert ((positions >= 0) & (positions < count)).all()
    np.testing.assert_array_equal(positions, choose_positions(count, wanted, (3, key)))


def test_few_positions_are_all_taken_and_another_layer_or_image_draws_others():
    assert choose_positions(4, 4, (0, 0)).tolist() == [0, 1, 2, 3]
    first, layer, image = (choose_positions(1000, 16, seed).tolist() for seed in ((0, 0), (1, 0), (0, 1)))
    assert first != layer and first != image
