"""Every rule finds what it is for, and nothing in a clean file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import CLEAN, CLIPPING, as_conv, make_qdq, make_qlinear
from onnx import numpy_helper

from mbdeploy.auditing.checks import Facts
from mbdeploy.auditing.clipping import Tally, find_unsafe
from mbdeploy.auditing.cpus import CPUS
from mbdeploy.auditing.fusing import Fused, _read_times, explain_float, name_nodes, optimise
from mbdeploy.auditing.products import read_products
from mbdeploy.auditing.report import Finding
from mbdeploy.auditing.rules import RULES, check_rules


def look(
    model: onnx.ModelProto, *, tallies: dict[str, Tally] | None = None, fused: Fused | None = None
) -> dict[str, Finding]:
    reading = read_products(model, "file")
    unsafe = {product.layer.node: find_unsafe(product) for product in reading.products}
    facts = Facts(reading=reading, unsafe=unsafe, tallies=tallies or {}, fused=fused)
    return {finding.rule: finding for finding in check_rules(facts)}


def fuse(model: onnx.ModelProto, folder: Path) -> Fused:
    name_nodes(model, read_products(model, "file").tensors)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return optimise(path, folder, None, 1)


def change(model: onnx.ModelProto, name: str, value: np.ndarray) -> onnx.ModelProto:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(value), name))
    return model


@pytest.mark.parametrize("make", [make_qdq, make_qlinear])
def test_nothing_is_found_in_a_clean_file(make: object, tmp_path: Path) -> None:
    model = make(as_conv(CLEAN), bias=np.array([1, 2, 3, 4], np.int32))  # type: ignore[operator]
    assert look(model, fused=fuse(model, tmp_path)) == {}


def test_layers_that_can_clip_are_counted_with_their_channels() -> None:
    finding = look(make_qdq())["MB301"]
    assert finding.severity == "error"
    assert finding.summary == "1 of 1 layers can clip in int16"
    assert [(spot.node, spot.text) for spot in finding.spots] == [("layer", "2 of 4 channels")]


def test_layers_that_do_clip_are_told_from_those_that_only_can() -> None:
    tally = Tally(outputs=200, clipped=3, signal=1e6, noise=1e3)
    finding = look(make_qdq(), tallies={"layer": tally})["MB301"]
    assert finding.summary == "1 of 1 layers can clip in int16, and 1 did on the images given"
    assert finding.spots[0].text == "2 of 4 channels; 1.50% of outputs did, 30.0 dB left of its sums"
    quiet = look(make_qdq(), tallies={"layer": Tally(outputs=200)})["MB301"]
    assert quiet.spots[0].text == "2 of 4 channels; 0.00% of outputs did, nothing lost"


def test_twice_minus_128_is_reported_for_old_arm() -> None:
    weight = CLEAN.copy()
    weight[2] = [-128, 0, -128, 0]
    finding = look(make_qlinear(as_conv(weight), activation="s8"))["MB302"]
    assert finding.spots[0].text == "1 of 4 channels hold -128 twice"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([0.01, 0, 0.01, 0.01], "w.scale: 1 zero, of 4"),
        ([0.01, np.nan, np.inf, 0.01], "w.scale: 2 not finite, of 4"),
        ([0.01, -0.01, 0.01, 0.01], "w.scale: 1 negative, of 4"),
    ],
)
@pytest.mark.parametrize("make", [make_qdq, make_qlinear])
def test_impossible_scales_are_found_in_either_format(make: object, value: list[float], text: str) -> None:
    model = change(make(as_conv(CLEAN)), "w.scale", np.array(value, np.float32))  # type: ignore[operator]
    finding = look(model)["MB303"]
    assert [spot.text for spot in finding.spots] == [text]


def test_scales_of_activations_are_looked_at_too_and_once() -> None:
    finding = look(make_qdq(as_conv(CLEAN), step=0.0))["MB303"]
    assert [spot.text for spot in finding.spots] == ["step: 1 zero, of 1"]


def test_denormal_scales_are_a_warning() -> None:
    model = change(make_qdq(as_conv(CLEAN)), "w.scale", np.array([0.01, 1e-40, 0.01, 0.01], np.float32))
    finding = look(model)["MB304"]
    assert (finding.severity, finding.spots[0].text) == ("warning", "w.scale: 1 of 4")


def test_a_zero_point_of_another_type_is_found() -> None:
    model = change(make_qdq(as_conv(CLEAN)), "w.zero", np.zeros(4, np.uint8))
    assert look(model)["MB305"].spots[0].text == "w.zero is u8, what it belongs to s8"


def test_weights_with_different_zero_points_are_found() -> None:
    finding = look(make_qdq(as_conv(CLEAN), zero=np.array([0, 1, 0, 2], np.int8)))["MB305"]
    assert finding.spots[0].text == "weights with 3 different zero points"


@pytest.mark.parametrize("make", [make_qdq, make_qlinear])
def test_a_bias_that_can_overflow_is_found_and_one_that_cannot_is_not(make: object) -> None:
    room = 255 * (64 + 64 + 1 + 2)
    full = np.array([2**31 - 1 - room, 0, 0, 0], np.int32)
    assert "MB306" not in look(make(as_conv(CLEAN), bias=full))  # type: ignore[operator]
    full[0] += 1
    finding = look(make(as_conv(CLEAN), bias=full))["MB306"]  # type: ignore[operator]
    assert finding.spots[0].text == "1 of 4 channels, with biases of up to 100.00% of int32"


def test_a_bias_that_was_cut_off_is_said() -> None:
    bias = np.array([-(2**31), 0, 0, 0], np.int32)
    assert look(make_qdq(as_conv(CLEAN), bias=bias))["MB306"].spots[0].text.endswith("1 are cut off at its end")


def test_a_bias_on_another_scale_is_found() -> None:
    bias = np.array([1, 2, 3, 4], np.int32)
    finding = look(make_qdq(as_conv(CLEAN), bias=bias, bias_scale=[0.0002, 0.0002, 0.0002, 0.0003]))["MB307"]
    assert finding.spots[0].text.startswith("up to 0.5 off")


def test_depthwise_weights_on_one_scale_lose_their_small_channels() -> None:
    weight = np.ones((4, 1, 3, 3), np.int8)
    weight[0] = 127
    finding = look(make_qdq(weight, scale=0.01, group=4))["MB308"]
    assert finding.severity == "warning"
    assert finding.spots[0].text == "one scale for 4 channels, 3 of them with fewer than 8 levels; ranges spread 127 x"
    assert "MB308" not in look(make_qdq(weight, group=4))


def test_pairs_that_do_not_fuse_are_named_with_the_reason(tmp_path: Path) -> None:
    model = make_qdq(as_conv(CLEAN), between="HardSwish")
    fused = fuse(model, tmp_path)
    finding = look(model, fused=fused)["MB309"]
    assert fused.integer["layer"] is False
    assert finding.severity == "warning"
    assert finding.summary.startswith("1 of 1 layers in float")
    text = "runs in float: its result goes to HardSwish before it is quantized"
    assert ("layer", text) in [(spot.node, spot.text) for spot in finding.spots]


def add_float_bias(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.initializer.append(numpy_helper.from_array(np.ones(4, np.float32), "b"))
    next(node for node in model.graph.node if node.name == "layer").input.append("b")
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (add_float_bias(make_qdq()), "its bias is not int32 behind a DequantizeLinear"),
        (make_qdq(result="s8"), "its input is u8 and its result s8"),
        (make_qdq(between="Sigmoid"), "its result goes to Sigmoid before it is quantized"),
        (make_qdq(between="Relu"), "ONNX Runtime does not say why"),
    ],
)
def test_reasons_for_float_are_read_off_the_graph(model: onnx.ModelProto, reason: str) -> None:
    reading = read_products(model, "file")
    assert explain_float(reading, reading.products[0]) == reason


def test_s8_activations_that_two_nodes_read_do_not_become_u8(tmp_path: Path) -> None:
    model = make_qdq(as_conv(CLEAN), activation="s8")
    nodes = {node.name: node for node in model.graph.node}
    nodes["y"].output[0] = "y.dq"
    model.graph.node.append(onnx.helper.make_node("Add", ["y.dq", "x.dq"], ["y"], "add"))
    fused = fuse(model, tmp_path)
    finding = look(model, fused=fused)["MB309"] if fused.integer["layer"] is False else None
    assert finding is not None
    assert finding.spots[0].text.startswith("runs in float: s8 activations that several nodes read")


def test_a_layer_that_was_never_quantized_is_listed(tmp_path: Path) -> None:
    model = make_qdq(as_conv(CLEAN))
    floats = CLIPPING.astype(np.float32).reshape(4, 4, 1, 1)
    model.graph.initializer.append(numpy_helper.from_array(floats, "plain"))
    next(node for node in model.graph.node if node.name == "y").output[0] = "y.dq"
    model.graph.node.append(onnx.helper.make_node("Conv", ["y.dq", "plain"], ["y"], "head"))
    finding = look(model, fused=fuse(model, tmp_path))["MB309"]
    assert ("head", "a layer in float: its weight is not quantized") in [(s.node, s.text) for s in finding.spots]


@pytest.mark.parametrize(
    ("joined", "operator", "kept"),
    [
        (6.4, "", "'y.dq' keeps 2 of 256 levels"),
        (1.7, "", "'y.dq' keeps 8 of"),
        (1.55, "", None),
        (1.3, "Sigmoid", "1 of"),
    ],
)
def test_a_part_that_keeps_few_levels_beside_a_larger_one_is_a_finding(
    joined: float, operator: str, kept: str | None
) -> None:
    model = make_qdq(as_conv(CLEAN))  # its result has steps of 0.05
    graph, part = model.graph, "y.dq"
    next(node for node in graph.node if node.name == "y").output[0] = part
    if operator:
        graph.node.append(onnx.helper.make_node(operator, [part], ["probable"], "probable"))
        part = "probable"
    graph.initializer.append(numpy_helper.from_array(np.array(joined, np.float32), "scale of both"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "zero of both"))
    graph.node.append(onnx.helper.make_node("Concat", ["x", part], ["both"], "join", axis=1))
    graph.node.append(onnx.helper.make_node("QuantizeLinear", ["both", "scale of both", "zero of both"], ["both.q"]))
    graph.node.append(onnx.helper.make_node("DequantizeLinear", ["both.q", "scale of both", "zero of both"], ["y"]))
    spots = [(spot.node, spot.text) for finding in [look(model).get("MB312")] if finding for spot in finding.spots]
    assert len(spots) == (kept is not None)
    assert all(node == "join" and str(kept) in text for node, text in spots)


def test_what_cannot_be_judged_is_a_finding() -> None:
    finding = look(make_qdq(scale=[0.1, 0.2]))["MB311"]
    assert finding.spots[0].text == "2 numbers in its weight scale for 4 output channels"


def test_ids_go_on_where_inspect_s_end() -> None:
    from mbdeploy.costs.rules import RULES as INSPECTED

    assert not set(RULES) & set(INSPECTED)
    assert list(RULES) == [f"MB{301 + index}" for index in range(len(RULES))]
    assert all(rule.sentence.endswith(".") for rule in RULES.values())


def test_the_page_has_every_rule_and_every_cpu_as_the_tables_have_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    for name, rule in RULES.items():
        assert f"| {name} | {rule.severity} | {rule.sentence} |" in page
    for cpu in CPUS:
        assert f"| {cpu.name} | {' | '.join(hazard or 'exact' for hazard in cpu.hazards)} |" in page


def test_each_place_that_does_not_fuse_has_the_time_of_its_node_and_of_the_conversions_beside_it() -> None:
    times = {"layer": 40, "x.dq": 5, "swish": 20, "q": 10, "alone": 15, "sum": 10}
    fused = Fused(
        operators={},
        integer={"layer": False},
        between=3,
        islands={"swish": "HardSwish"},
        conversions=frozenset(("x.dq", "q", "alone")),
        beside={"q": "swish", "x.dq": "layer", "alone": "alone"},
        times=times,
    )
    finding = look(make_qdq(as_conv(CLEAN), between="HardSwish"), fused=fused)["MB309"]
    assert [(spot.node, spot.time_share) for spot in finding.spots] == [
        ("layer", 0.45),
        ("swish", 0.3),
        ("alone", 0.15),
    ]
    assert finding.spots[2].text == "a conversion that no node takes in"
    assert finding.time_share == pytest.approx(0.9)
    assert "time" not in finding.summary  # a summary is the same in every run


def test_without_a_profile_places_have_no_time(tmp_path: Path) -> None:
    model = make_qdq(as_conv(CLEAN), between="HardSwish")
    finding = look(model, fused=fuse(model, tmp_path))["MB309"]
    assert finding.time_share is None
    assert {spot.time_share for spot in finding.spots} == {None}


def test_the_time_of_a_float_layer_is_its_own_whatever_name_onnx_runtime_gives_it(tmp_path: Path) -> None:
    """A convolution with a multiple of 16 channels and its Relu become one node on blocks of channels, on x86."""
    model = make_qdq(as_conv(np.ones((16, 16), np.int8)))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "plain"))
    next(node for node in model.graph.node if node.name == "y").output[0] = "y.dq"
    model.graph.node.append(onnx.helper.make_node("Conv", ["y.dq", "plain"], ["sums"], "head"))
    model.graph.node.append(onnx.helper.make_node("Relu", ["sums"], ["y"], "relu"))
    name_nodes(model, read_products(model, "file").tensors)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    fused = optimise(path, tmp_path, np.zeros((2, 16, 4, 4), np.float32), 1)
    assert "head" in fused.times and fused.integer["head"] is False
    assert "head" in fused.beside.values()
    shares = [spot.time_share for spot in look(model, fused=fused)["MB309"].spots]
    assert None not in shares and sum(filter(None, shares)) <= 1


def test_a_profile_counts_every_run_of_a_node_but_the_first(tmp_path: Path) -> None:
    events = [
        {"cat": "Node", "name": f"{node}_{part}", "dur": dur}
        for node, part, dur in [
            ("a", "kernel_time", 900),
            ("a", "fence_before", 50),
            ("a", "kernel_time", 2),
            ("a", "kernel_time", 3),
            ("once", "kernel_time", 7),
        ]
    ]
    (tmp_path / "profile.json").write_text(json.dumps([*events, {"cat": "Session", "name": "a_kernel_time", "dur": 1}]))
    assert _read_times(tmp_path / "profile.json") == {"a": 5000, "once": 7000}


def test_nodes_that_onnx_runtime_gives_no_name_count_for_the_operator_that_they_are_of(tmp_path: Path) -> None:
    model = make_qdq(as_conv(CLEAN), between="HardSwish")
    name_nodes(model, read_products(model, "file").tensors)
    (swish,) = [node.name for node in model.graph.node if node.op_type == "HardSwish"]
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    fused = optimise(path, tmp_path, np.zeros((1, 4, 4, 4), np.float32), 1)
    assert set(fused.islands) == {swish} and swish in fused.times
    assert {spot.node for spot in look(model, fused=fused)["MB309"].spots} == {"layer", swish}
