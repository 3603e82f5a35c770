"""Peak activation memory, by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper

from mbdeploy.costs.report import InspectReport

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]


def conv(source: str, output: str, weight: str) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight], [output], f"{output}_conv")


WEIGHTS = {
    "widen": np.zeros((40, 10, 1, 1), np.float32),
    "narrow": np.zeros((10, 40, 1, 1), np.float32),
}


def test_a_shortcut_stays_alive_until_it_is_added(make_model: Make, look: Look) -> None:
    nodes = [
        conv("x", "wide", "widen"),
        conv("wide", "thin", "narrow"),
        helper.make_node("Add", ["thin", "x"], ["y"], "add"),
    ]
    report = look(make_model(nodes, [1, 10, 1, 1], WEIGHTS))
    # wide runs: x + wide = 50; thin runs: x + wide + thin = 60; add runs: x + thin + y = 30
    assert [layer.live_fp32_bytes for layer in report.layers] == [200, 240, 120]
    assert (report.memory.fp32_bytes, report.memory.fp32_node) == (240, "thin_conv")
    assert (report.memory.int8_bytes, report.memory.int8_node) == (60, "thin_conv")


def test_without_the_shortcut_the_input_is_freed(make_model: Make, look: Look) -> None:
    nodes = [conv("x", "wide", "widen"), conv("wide", "y", "narrow")]
    report = look(make_model(nodes, [1, 10, 1, 1], WEIGHTS))
    assert [layer.live_fp32_bytes for layer in report.layers] == [200, 200]


def test_activations_run_in_place_and_views_cost_nothing(make_model: Make, look: Look) -> None:
    nodes = [
        conv("x", "wide", "widen"),
        helper.make_node("Relu", ["wide"], ["active"], "relu"),
        helper.make_node("Flatten", ["active"], ["y"], "flatten"),
    ]
    report = look(make_model(nodes, [1, 10, 1, 1], WEIGHTS))
    assert [layer.live_fp32_bytes for layer in report.layers] == [200, 160, 160]
    assert [layer.fused for layer in report.layers] == [False, True, False]


def test_an_activation_whose_input_is_read_again_has_a_buffer_of_its_own(make_model: Make, look: Look) -> None:
    nodes = [
        conv("x", "wide", "widen"),
        helper.make_node("Sigmoid", ["wide"], ["gate"], "gate"),
        helper.make_node("Mul", ["wide", "gate"], ["y"], "swish"),
    ]
    report = look(make_model(nodes, [1, 10, 1, 1], WEIGHTS))
    assert [layer.live_fp32_bytes for layer in report.layers] == [200, 320, 480]
    assert not any(layer.fused for layer in report.layers)


def test_outputs_stay_alive_to_the_end(make_model: Make, look: Look) -> None:
    nodes = [conv("x", "wide", "widen"), conv("wide", "thin", "narrow"), conv("thin", "y", "widen")]
    model = make_model(nodes, [1, 10, 1, 1], WEIGHTS)
    model.graph.output.append(helper.make_empty_tensor_value_info("wide"))
    assert look(model).layers[-1].live_fp32_bytes == 4 * (40 + 10 + 40)


def test_what_stays_in_float_in_a_quantized_file_takes_four_bytes(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "q"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], "dq"),
        conv("x_dq", "wide", "widen"),
        helper.make_node("Softmax", ["wide"], ["y"], "softmax", axis=1),
    ]
    constants = {**WEIGHTS, "s": np.float32(1), "z": np.uint8(0)}
    report = look(make_model(nodes, [1, 10, 1, 1], constants))
    assert [layer.live_int8_bytes for layer in report.layers] == [10 + 160, 160 + 160]
