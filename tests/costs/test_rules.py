"""The rules: each on the smallest graph that breaks it, and on one that does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from mbdeploy.costs.report import Finding, InspectReport
from mbdeploy.costs.rules import RULES
from mbdeploy.errors import UsageError
from mbdeploy.records import LayerRecord

Make = Callable[..., onnx.ModelProto]
Look = Callable[..., InspectReport]


def conv(source: str, output: str, weight: str, *others: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, weight, *others], [output], output, **attributes)


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, 0.3, shape).astype(np.float32)


def find(report: InspectReport, rule: str) -> Finding | None:
    return next((finding for finding in report.findings if finding.rule == rule), None)


def record(node: str, low: float, high: float) -> LayerRecord:
    return LayerRecord(
        node=node,
        operator="Conv",
        weight="w",
        depthwise=False,
        input_range=(low, high),
        output_range=(low, high),
        weight_scale=(1.0, 1.0),
        growth_mean=1.0,
        growth_max=1.0,
        clipping=0.0,
    )


def test_g1_reports_unequal_widths_with_the_bytes_that_equal_ones_would_save(make_model: Make, look: Look) -> None:
    report = look(make_model([conv("x", "y", "w")], [1, 4, 16, 16], {"w": normal(64, 4, 1, 1)}))
    found = find(report, "MB101")
    assert found is not None
    # 4 + 64 channels of 256 places move, against twice 16; both have 256 weights
    assert found.evidence[0].bytes == 4 * 256 * (4 + 64 - 32)
    assert found.evidence[0].node == "y"
    equal = look(make_model([conv("x", "y", "w")], [1, 16, 16, 16], {"w": normal(16, 16, 1, 1)}))
    assert find(equal, "MB101") is None


def test_g2_reports_groups_with_the_bytes_of_the_channels_they_add(make_model: Make, look: Look) -> None:
    report = look(make_model([conv("x", "y", "w", group=2)], [1, 8, 4, 4], {"w": normal(8, 4, 1, 1)}))
    found = find(report, "MB102")
    assert found is not None
    assert found.evidence[0].bytes == 4 * 8 * 16 // 2
    depthwise = look(make_model([conv("x", "y", "w", group=8)], [1, 8, 4, 4], {"w": normal(8, 1, 1, 1)}))
    assert find(depthwise, "MB102") is None


@pytest.mark.parametrize(("branches", "expected"), [(1, None), (2, None), (3, "x"), (4, "x")])
def test_g3_reports_a_map_that_three_convolutions_read(
    make_model: Make, look: Look, branches: int, expected: str | None
) -> None:
    names = [f"branch{index}" for index in range(branches)]
    nodes = [*(conv("x", name, "w") for name in names), helper.make_node("Concat", names, ["y"], "join", axis=1)]
    found = find(look(make_model(nodes, [1, 8, 4, 4], {"w": normal(4, 8, 1, 1)})), "MB103")
    assert (found and found.evidence[0].node) == expected


def test_g4_reports_elementwise_work_that_no_convolution_takes_in(make_model: Make, look: Look) -> None:
    weights = {"w": normal(8, 8, 1, 1)}
    fused = [conv("x", "c", "w"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    assert find(look(make_model(fused, [1, 8, 4, 4], weights)), "MB104") is None
    added = [conv("x", "c", "w"), helper.make_node("Add", ["c", "x"], ["y"], "add")]
    found = find(look(make_model(added, [1, 8, 4, 4], weights)), "MB104")
    assert found is not None
    assert [(place.node, place.bytes) for place in found.evidence] == [("add", 3 * 4 * 128)]


def test_widths_that_fill_no_vector_are_reported_with_the_work_on_nothing(make_model: Make, look: Look) -> None:
    found = find(look(make_model([conv("x", "y", "w")], [1, 12, 4, 4], {"w": normal(20, 12, 1, 1)})), "MB105")
    assert found is not None
    assert found.evidence[0].text == "12 -> 20 channels are computed as 16 -> 24: 60% more"
    assert found.evidence[0].macs == 16 * (16 * 24 - 12 * 20)
    stem = look(make_model([conv("x", "y", "w")], [1, 3, 4, 4], {"w": normal(16, 3, 1, 1)}))
    assert find(stem, "MB105") is None


@pytest.mark.parametrize(
    ("channels", "expected"), [(16, None), (12, "1 -> 12 channels are computed as 1 -> 16: 33% more")]
)
def test_depthwise_channels_fill_vectors_together(
    make_model: Make, look: Look, channels: int, expected: str | None
) -> None:
    node = conv("x", "y", "w", group=channels)
    found = find(look(make_model([node], [1, channels, 8, 8], {"w": normal(channels, 1, 3, 3)})), "MB105")
    assert (found and found.evidence[0].text) == expected


def test_a_float_island_is_reported_with_its_cause_and_the_way_there_and_back(make_model: Make, look: Look) -> None:
    nodes = [
        conv("x", "c", "w"),
        helper.make_node("Softmax", ["c"], ["h"], "soft", axis=1),
        conv("h", "y", "w"),
    ]
    found = find(look(make_model(nodes, [1, 8, 4, 4], {"w": normal(8, 8, 1, 1)})), "MB201")
    assert found is not None
    assert [(place.node, place.text, place.bytes) for place in found.evidence] == [
        ("soft", "Softmax: softmax", 2 * 5 * 128)
    ]
    assert "leave the softmax" in found.change


def test_neighbouring_float_nodes_are_one_island(make_model: Make, look: Look) -> None:
    nodes = [
        conv("x", "c", "w"),
        helper.make_node("Softplus", ["c"], ["a"], "plus"),
        helper.make_node("Erf", ["a"], ["e"], "erf"),
        conv("e", "y", "w"),
    ]
    found = find(look(make_model(nodes, [1, 8, 4, 4], {"w": normal(8, 8, 1, 1)})), "MB201")
    assert found is not None
    assert [place.node for place in found.evidence] == ["plus"]
    assert found.summary.startswith("2 nodes in 1 island")


@pytest.mark.parametrize(
    ("operator", "slope", "is_island"),
    [
        ("HardSwish", {}, False),
        ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, False),
        ("HardSigmoid", {"alpha": 0.2, "beta": 0.4}, True),
    ],
)
def test_hard_sigmoids_that_bytes_can_do_are_no_islands(
    make_model: Make, look: Look, operator: str, slope: dict[str, float], is_island: bool
) -> None:
    nodes = [
        conv("x", "c", "w"),
        helper.make_node("Add", ["c", "x"], ["s"], "sum"),
        helper.make_node(operator, ["s"], ["h"], "act", **slope),
        conv("h", "y", "w"),
    ]
    found = find(look(make_model(nodes, [1, 8, 4, 4], {"w": normal(8, 8, 1, 1)})), "MB201")
    assert (found is not None) == is_island
    assert found is None or [place.node for place in found.evidence] == ["act"]


def test_a_hard_sigmoid_that_a_convolution_takes_in_is_no_island(make_model: Make, look: Look) -> None:
    act = helper.make_node("HardSigmoid", ["c"], ["h"], "act", alpha=0.2, beta=0.4)
    model = make_model([conv("x", "c", "w"), act, conv("h", "y", "w")], [1, 8, 4, 4], {"w": normal(8, 8, 1, 1)})
    assert find(look(model), "MB201") is None


def test_h_swish_that_another_tool_left_in_float_is_an_island(make_model: Make, look: Look) -> None:
    quantized = [("QuantizeLinear", "qx", "x"), ("DequantizeLinear", "x8", "qx")]
    quantized += [("QuantizeLinear", "qc", "c"), ("DequantizeLinear", "c8", "qc")]
    pairs = [helper.make_node(kind, [name, "s", "z"], [made]) for kind, made, name in quantized]
    act = helper.make_node("HardSwish", ["c8"], ["y"], "act")
    weights = {"w": normal(8, 8, 1, 1), "s": np.float32(0.1), "z": np.uint8(128)}
    model = make_model([*pairs[:2], conv("x8", "c", "w"), *pairs[2:], act], [1, 8, 4, 4], weights)
    found = find(look(model), "MB201")
    assert found is not None
    assert [place.node for place in found.evidence] == ["act"]
    assert "mbdeploy quantize" in found.change


def test_depthwise_channels_of_unlike_ranges_are_reported(make_model: Make, look: Look) -> None:
    weight = np.ones((4, 1, 3, 3), np.float32) * np.array([1, 1, 0.01, 0], np.float32)[:, None, None, None]
    node = conv("x", "y", "w", group=4)
    found = find(look(make_model([node], [1, 4, 8, 8], {"w": weight})), "MB202")
    assert found is not None
    assert found.evidence[0].text == "ranges spread 100 x; 1 of 4 channels keep fewer than 8 levels, 1 all zero"
    even = look(make_model([node], [1, 4, 8, 8], {"w": np.ones((4, 1, 3, 3), np.float32)}))
    assert find(even, "MB202") is None


def test_relu_is_reported_and_relu6_is_not(make_model: Make, look: Look) -> None:
    weights = {"w": normal(8, 8, 1, 1), "zero": np.float32(0), "six": np.float32(6)}
    relu = make_model([conv("x", "c", "w"), helper.make_node("Relu", ["c"], ["y"], "relu")], [1, 8, 4, 4], weights)
    found = find(look(relu), "MB203")
    assert found is not None
    assert found.evidence[0].text == "Relu: range unknown"
    clip = helper.make_node("Clip", ["c", "zero", "six"], ["y"], "relu6")
    assert find(look(make_model([conv("x", "c", "w"), clip], [1, 8, 4, 4], weights)), "MB203") is None


def test_a_known_range_says_what_resolution_is_lost(make_model: Make, look: Look) -> None:
    nodes = [conv("x", "c", "w"), helper.make_node("Relu", ["c"], ["y"], "relu")]
    model = make_model(nodes, [1, 8, 4, 4], {"w": normal(8, 8, 1, 1)})
    found = find(look(model, records={"c": record("c", 0.0, 24.0)}), "MB203")
    assert found is not None
    # 24 = 4 x 6: two bits; 24 / 255 = 0.094; float16 has 11 bits, so 2^(4 - 10) between 16 and 32
    assert found.evidence[0].text == (
        "Relu: up to 24, int8 step 0.094 (2.0 bits coarser than ReLU6), fp16 step 0.016 there"
    )


def test_layers_that_could_saturate_are_reported_and_pair_safe_ones_are_not(make_model: Make, look: Look) -> None:
    clipping = np.ones((2, 4, 1, 1), np.float32)
    found = find(look(make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": clipping})), "MB204")
    assert found is not None
    assert found.evidence[0].text == "2 of 2 channels"
    safe = np.array([[1, 0, 0, 0], [1, -1, 1, -1]], np.float32).reshape(2, 4, 1, 1)
    assert find(look(make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": safe})), "MB204") is None
    depthwise = look(make_model([conv("x", "y", "w", group=4)], [1, 4, 8, 8], {"w": np.ones((4, 1, 3, 3), np.float32)}))
    assert find(depthwise, "MB204") is None


@pytest.mark.parametrize(
    ("kind", "value", "expected"), [(np.uint8, 127, True), (np.uint8, 64, False), (np.int8, 127, False)]
)
def test_a_quantized_file_is_judged_by_its_own_integers(
    make_model: Make, look: Look, kind: type, value: int, expected: bool
) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "q"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w_q", "s"], ["w"], "dqw"),
        conv("x_dq", "y", "w"),
    ]
    constants = {"s": np.float32(1), "z": kind(0), "w_q": np.full((2, 4, 1, 1), value, np.int8)}
    found = find(look(make_model(nodes, [1, 4, 2, 2], constants)), "MB204")
    assert (found is not None) == expected


def test_a_bias_beside_tiny_weights_is_reported(make_model: Make, look: Look) -> None:
    weights = {"w": np.full((2, 1, 1, 1), 1e-9, np.float32), "b": np.ones(2, np.float32)}
    model = make_model([conv("x", "y", "w", "b", group=2)], [1, 2, 2, 2], weights)
    found = find(look(model), "MB205")
    assert found is not None
    # span < 255 * |b| / (|w| / 127 * 2^31) = 255 * 127 / (1e-9 * 2^31) = 15080
    assert found.evidence[0].text == "overflows if the input spans less than 1.51e+04; its span is unknown"
    assert find(look(model, records={"y": record("y", 0.0, 2e4)}), "MB205") is None
    seen = find(look(model, records={"y": record("y", 0.0, 1e4)}), "MB205")
    assert seen is not None
    assert seen.evidence[0].text.endswith("its span is 1e+04")


def test_a_stored_bias_at_the_end_of_int32_is_reported(make_model: Make, look: Look) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x_q"], "q"),
        helper.make_node("DequantizeLinear", ["x_q", "s", "z"], ["x_dq"], "dq"),
        helper.make_node("DequantizeLinear", ["w_q", "s"], ["w"], "dqw"),
        helper.make_node("DequantizeLinear", ["b_q", "s"], ["b"], "dqb"),
        conv("x_dq", "y", "w", "b"),
    ]
    constants = {
        "s": np.float32(1),
        "z": np.uint8(0),
        "w_q": np.ones((2, 4, 1, 1), np.int8),
        "b_q": np.array([0, (1 << 31) - 1], np.int32),
    }
    found = find(look(make_model(nodes, [1, 4, 2, 2], constants)), "MB205")
    assert found is not None
    assert found.evidence[0].text == "a bias of 100% of int32"


def test_a_rule_that_is_ignored_says_nothing(make_model: Make, look: Look) -> None:
    model = make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": np.ones((2, 4, 1, 1), np.float32)})
    assert find(look(model), "MB204") is not None
    report = look(model, ignore=["MB204"])
    assert find(report, "MB204") is None
    assert report.ignored == ("MB204",)


def test_an_unknown_rule_cannot_be_ignored(make_model: Make, look: Look) -> None:
    with pytest.raises(UsageError, match="MB101"):
        look(make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": normal(2, 4, 1, 1)}), ignore=["MB999"])


def test_weights_that_are_not_finite_are_left_to_others(make_model: Make, look: Look) -> None:
    weight = np.full((2, 4, 1, 1), np.nan, np.float32)
    assert look(make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": weight})).total.macs == 32


def test_of_a_huge_layer_evenly_spaced_channels_are_looked_at_and_said_so(
    make_model: Make, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mbdeploy.costs.subject._MOST_WEIGHTS", 16)
    model = make_model([conv("x", "y", "w")], [1, 4, 2, 2], {"w": np.ones((8, 4, 1, 1), np.float32)})
    found = find(look(model), "MB204")
    assert found is not None
    assert found.evidence[0].text == "4 of 4 channels looked at, of 8"


def test_every_rule_has_an_id_of_its_family_and_one_sentence() -> None:
    assert list(RULES) == sorted(RULES)
    for name, rule in RULES.items():
        assert name.startswith("MB") and name[2:].isdecimal()
        assert rule.sentence.endswith(".") and rule.sentence.count(". ") == 0


def test_the_page_about_inspect_says_of_every_rule_what_the_table_says() -> None:
    page = (Path(__file__).parents[2] / "docs" / "inspect.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| (MB\d+) \| (.+?) \|", page, re.MULTILINE))
    assert rows == {name: rule.sentence for name, rule in RULES.items()}
