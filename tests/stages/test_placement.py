"""Rules over placement: what they mean, what they refuse, and that verify and bench gate on them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.derive import choose_clock
from mbdeploy.errors import UsageError
from mbdeploy.results import BenchRun, ParityReport, PlacedNode, Placement, decode_result, encode_result
from mbdeploy.stages.bench import bench
from mbdeploy.stages.facts import derive_latency, derive_parity
from mbdeploy.stages.figures import tabulate_latency, tabulate_parity
from mbdeploy.stages.placement import check_rules, judge_placement, judge_placements, parse_rules
from mbdeploy.stages.verify import verify
from mbdeploy.targets.fake import FakeTarget

CPU, CUDA, QNN = "CPUExecutionProvider", "CUDAExecutionProvider", "QNNExecutionProvider"
Write = Callable[..., Path]
Plug = Callable[[str, FakeTarget], str]


def place(*nodes: tuple[str, str, str]) -> Placement:
    """A placement of (operator, provider, type) in the order of execution."""
    ran = tuple(PlacedNode(f"n{k}", *node) for k, node in enumerate(nodes))
    return Placement(nodes={}, operators={}, ran=ran)


def judge(text: str, placement: Placement, provider: str = "cpu", kind: str = "int8") -> tuple[float, bool | None, str]:
    (gate,) = judge_placement(parse_rules([text]), placement, "m", provider, kind)
    return gate.value, gate.passed, gate.note


def test_a_share_counts_the_nodes_that_the_provider_ran() -> None:
    placement = place(*[("Conv", CUDA, "float32")] * 19, ("Nms", CPU, "float32"))
    assert judge("cuda>=95%", placement, "cuda") == (pytest.approx(95), True, "")
    value, passed, note = judge("cuda >= 95.5 %", placement, "cuda")
    assert (value, passed) == (pytest.approx(95), False)
    assert note == f"Nms n19 (float32 on {CPU})"


def test_a_share_holds_for_its_own_provider_only_and_for_one_that_fell_back() -> None:
    rules = parse_rules(["cuda>=95%"])
    on_cpu = place(("Conv", CPU, "float32"))
    assert judge_placement(rules, on_cpu, "m", "cpu", "int8") == []
    (gate,) = judge_placement(rules, on_cpu, "m", "cuda (fell back to cpu)", "fp32")
    assert (gate.value, gate.passed) == (0, False)


@pytest.mark.parametrize(
    ("nodes", "faults"),
    [
        ([("QLinearConv", CPU, "uint8")], 0),
        ([("Conv", CPU, "float32"), ("FusedConv", CPU, "float32"), ("Convolution", "OpenVINO", "bfloat16")], 3),
        ([("Convolution", "OpenVINO", "uint8"), ("Convert", "OpenVINO", "float32")], 0),
        ([("Conv", CUDA, "float16"), ("Gemm", CPU, "float32")], 1),
    ],
)
def test_no_float_conv_counts_every_fused_form_by_the_type_it_reads(
    nodes: list[tuple[str, str, str]], faults: int
) -> None:
    assert judge("no float Conv", place(*nodes))[:2] == (faults, faults == 0)


def test_no_float_takes_a_family_or_any_operators_name() -> None:
    placement = place(("FullyConnected", CPU, "float32"), ("HardSigmoid", CPU, "float32"))
    assert judge("no float gemm", placement)[:2] == (1, False)
    assert judge("no float HardSigmoid", placement)[:2] == (1, False)
    assert judge("no float Softmax", place(("Softmax", CPU, "uint8")))[:2] == (0, True)


@pytest.mark.parametrize(
    ("operators", "faults"),
    [
        ("QuantizeLinear QLinearConv QLinearConv DequantizeLinear Softmax", 0),
        ("QuantizeLinear QLinearConv DequantizeLinear HardSigmoid QuantizeLinear QLinearConv DequantizeLinear", 2),
        ("Convolution FakeQuantize Convolution", 1),
    ],
)
def test_quantizing_at_the_ends_is_no_island(operators: str, faults: int) -> None:
    nodes = [(name, CPU, "uint8") for name in operators.split()]
    assert judge("no Q/DQ left between convolutions", place(*nodes))[:2] == (faults, faults == 0)
    assert judge("no qdq between convs", place(*nodes))[0] == faults


@pytest.mark.parametrize(
    ("text", "operators", "cause"),
    [
        ("no float Convv", "QLinearConv", "no Convv was recorded"),
        ("no float Conv", "QuantizeLinear DequantizeLinear", "no Conv was recorded"),
        (
            "no Q/DQ left between convolutions",
            "QuantizeLinear DequantizeLinear Softmax",
            "fewer than two convolutions",
        ),
        ("no Q/DQ left between convolutions", "QuantizeLinear QLinearConv", "fewer than two convolutions"),
    ],
)
def test_a_rule_over_nothing_fails_without_a_number(text: str, operators: str, cause: str) -> None:
    value, passed, note = judge(text, place(*[(name, CPU, "uint8") for name in operators.split()]))
    assert math.isnan(value) and passed is False and cause in note


def compile_on(
    provider: str, operator: str, assigned: dict[str, dict[str, int]], *more: tuple[str, str, str]
) -> Placement:
    """Quantize, a part that was compiled into one node, dequantize; and ``more``."""
    ends = (("QuantizeLinear", CPU, "float32"), (operator, provider, "int32"), ("DequantizeLinear", CPU, "uint8"))
    return msgspec.structs.replace(place(*ends, *more), assigned=assigned)


TOOK = {QNN: {"Conv": 3, "QuantizeLinear": 5, "DequantizeLinear": 11}, CPU: {"QuantizeLinear": 1}}


def test_a_share_counts_what_a_compiled_part_is_made_of() -> None:
    placement = compile_on(QNN, "QNNExecutionProvider_64_1", TOOK)
    assert judge("qnn>=95%", placement, "qnn") == (95, True, "")
    assert judge("qnn>=96%", placement, "qnn") == (95, False, f"1 QuantizeLinear on {CPU}")


def test_a_share_of_compiled_parts_of_unknown_size_is_inconclusive() -> None:
    value, passed, note = judge("qnn>=1%", compile_on(QNN, "QNNExecutionProvider_64_1", {}), "qnn")
    assert math.isnan(value) and passed is None and f"what {QNN} compiled into 1 of the nodes" in note
    assert judge("qnn>=100%", place(("QNN_1", QNN, "int32")), "qnn") == (100, True, "")  # all of it, whatever it is


def test_a_provider_that_took_nodes_and_ran_none_has_no_share() -> None:
    placement = msgspec.structs.replace(place(("Conv", CPU, "float32")), assigned={QNN: {"Conv": 1}})
    assert judge("qnn>=1%", placement, "qnn")[:2] == (0, False)


@pytest.mark.parametrize("text", ["no float Conv", "no Q/DQ left between convolutions"])
@pytest.mark.parametrize(
    ("provider", "operator"), [(QNN, "QNNExecutionProvider_64_1"), ("NewExecutionProvider", "New_subgraph_1")]
)
@pytest.mark.parametrize("known", [True, False])
def test_what_was_compiled_cannot_be_looked_into(text: str, provider: str, operator: str, known: bool) -> None:
    assigned = {provider: TOOK[QNN]} if known else {}
    value, passed, note = judge(text, compile_on(provider, operator, assigned))
    assert math.isnan(value) and passed is None and f"what {provider} compiled into 1 of the nodes" in note
    convolutions = [("Conv", CPU, "float32"), ("DequantizeLinear", CPU, "uint8"), ("Conv", CPU, "float32")]
    assert judge(text, compile_on(provider, operator, assigned, *convolutions))[1] is False  # what is seen is enough


def test_what_a_provider_did_not_take_is_not_hidden_in_what_it_compiled() -> None:
    placement = compile_on(
        QNN, "QNN_1", {QNN: {"Softmax": 1}}, ("QLinearConv", CPU, "uint8"), ("QLinearConv", CPU, "uint8")
    )
    assert judge("no float Conv", placement)[:2] == (0, True)
    assert judge("no Q/DQ left between convolutions", placement)[:2] == (0, True)
    assert judge("no float Softmax", placement)[1] is None


def test_quantizing_inside_a_part_between_two_convolutions_is_hidden() -> None:
    nodes = place(("QLinearConv", CPU, "uint8"), ("QNN_1", QNN, "uint8"), ("QLinearConv", CPU, "uint8"))
    text = "no Q/DQ left between convolutions"
    assert judge(text, msgspec.structs.replace(nodes, assigned={QNN: {"Softmax": 1}}))[1] is True
    assert judge(text, msgspec.structs.replace(nodes, assigned={QNN: {"DequantizeLinear": 1}}))[1] is None


def test_an_operator_of_one_s_own_on_the_cpu_is_no_compiled_part() -> None:
    placement = place(("My_Operator", CPU, "uint8"), ("QLinearConv", CPU, "uint8"))
    assert judge("no float Conv", placement)[:2] == (0, True)


def test_a_placement_that_was_saved_before_assignments_were_loads() -> None:
    old = b'{"nodes":{"CPUExecutionProvider":1},"operators":{"Conv":1},"elsewhere":[],"ran":[["n","Conv","P","uint8"]]}'
    assert decode_result(old, Placement).assigned == {}


def test_rules_over_types_judge_int8_files_only() -> None:
    assert judge_placement(parse_rules(["no float Conv"]), place(("Conv", CPU, "float32")), "m", "cpu", "fp32") == []


@pytest.mark.parametrize("text", ["no float Conv", "cpu>=0%", "no Q/DQ left between convolutions"])
def test_a_placement_that_was_not_recorded_passes_no_rule(text: str) -> None:
    value, passed, note = judge(text, place())
    assert math.isnan(value) and passed is False and note == "no node was recorded"


@pytest.mark.parametrize(
    "text", ["", "cuda", "cuda>95%", "cuda>=101%", "gpu>=5%", "no Conv", "no float", "no float A B"]
)
def test_a_rule_that_cannot_be_read_is_refused_with_the_forms_that_can(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_rules([text])
    assert "\n" not in str(caught.value)
    if text != "gpu>=5%":  # there the providers are listed
        assert "no float Conv" in caught.value.expected and "cuda>=95%" in caught.value.expected


def test_a_rule_that_would_judge_nothing_is_refused() -> None:
    check_rules(parse_rules(["cpu>=95%", "no float Conv"]), ["cpu@qemu:haswell"], ["fp32", "int8"])
    with pytest.raises(UsageError, match="expected --provider cuda, found cpu"):
        check_rules(parse_rules(["cuda>=95%"]), ["cpu"], ["int8"])
    with pytest.raises(UsageError, match="expected an INT8 file to judge"):
        check_rules(parse_rules(["no float Conv"]), ["cpu"], ["fp32"])


def write_conv(path: Path, *, island: bool) -> Path:
    """Q/DQ -> Conv -> Q/DQ -> (HardSigmoid in float ->) Conv -> Q/DQ over x (1, 3, 4, 4), all of scale 1."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["xq"], "q0"),
        helper.make_node("DequantizeLinear", ["xq", "one", "zero"], ["a0"], "dq0"),
        helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["wf"], "dqw"),
    ]
    for k in range(2):
        read = f"a{k}"
        if k and island:
            nodes.append(helper.make_node("HardSigmoid", [read], ["s"], "sigmoid"))
            nodes.append(helper.make_node("QuantizeLinear", ["s", "one", "zero"], ["sq"], "qs"))
            nodes.append(helper.make_node("DequantizeLinear", ["sq", "one", "zero"], ["sf"], "dqs"))
            read = "sf"
        nodes += [
            helper.make_node("Conv", [read, "wf"], [f"c{k}"], f"conv{k}"),
            helper.make_node("QuantizeLinear", [f"c{k}", "one", "zero"], [f"q{k + 1}"], f"q{k + 1}"),
            helper.make_node("DequantizeLinear", [f"q{k + 1}", "one", "zero"], [f"a{k + 1}"], f"dq{k + 1}"),
        ]
    weights = {
        "one": np.float32(1),
        "zero": np.uint8(0),
        "ones": np.ones(3, np.float32),
        "zeros": np.zeros(3, np.int8),
        "w": np.eye(3, dtype=np.int8).reshape(3, 3, 1, 1),
    }
    nodes[2].attribute.append(helper.make_attribute("axis", 0))
    graph = helper.make_graph(
        nodes,
        "convs",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [helper.make_tensor_value_info("a2", TensorProto.FLOAT, ["batch", 3, 4, 4])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("word", ["cpu", "openvino"])
@pytest.mark.parametrize("island", [False, True])
def test_verify_gates_on_what_really_ran(
    word: str, island: bool, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if word == "openvino":
        request.getfixturevalue("real_openvino")
    images = np.random.default_rng(0).integers(0, 9, (4, 3, 4, 4)).astype(np.float32)
    np.savez(tmp_path / "images.npz", inputs=images)
    model = write_conv(tmp_path / "int8.onnx", island=island)
    rules = ["no float Conv", "no Q/DQ left between convolutions", f"{word}>=100%"]
    report = verify(
        [model],
        reference=model,
        data=str(tmp_path / "images.npz"),
        providers=[word],
        require_placement=rules,
    )
    found = {check.name: check for check in report.checks}
    assert found["no float Conv"].passed and found[f"{word}>=100%"].value == 100
    if word == "cpu":  # OpenVINO fuses the sigmoid with its quantization
        assert found["no Q/DQ left between convolutions"].passed is not island
        assert found["no Q/DQ left between convolutions"].value == (2 if island else 0)
    executed = report.rows[0]
    assert executed.metrics.max_abs == 0
    if word == "cpu":  # before they are fused: those of the file
        assert executed.placement.assigned[CPU]["Conv"] == 2 and "QLinearConv" not in executed.placement.assigned[CPU]
    assert sum(executed.placement.operators.values()) == len(executed.placement.ran)
    assert decode_result(encode_result(report), ParityReport) == report


def test_a_benchmark_saves_its_rules_and_is_judged_by_them_when_it_is_shown(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("fake", FakeTarget(answer=lambda session, inputs: [inputs]))
    models = [write_mean_model(), write_mean_model("q.onnx", quantized=True)]
    (run,) = bench(models, providers=[word], require_placement=["no float Fake", "cpu>=100%"], cool_down=0)
    saved = decode_result(encode_result(run), BenchRun)
    assert saved == run and json.loads(encode_result(run))["require_placement"] == ["no float Fake", "cpu>=100%"]
    gates = [(gate.name, gate.subject, gate.passed) for gate in judge_placements(saved)]
    assert gates == [
        ("cpu>=100%", f"fp32 on {word}", True),
        ("no float Fake", f"q on {word}", False),
        ("cpu>=100%", f"q on {word}", True),
    ]
    assert [check.passed for check in derive_latency(saved).checks[-3:]] == [True, False, True]


def test_rows_that_fell_back_say_so_and_fail_a_rule_on_the_provider(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("board", FakeTarget(answer=lambda session, inputs: [2 * inputs.mean(axis=(2, 3))]))
    word = f"cuda@{word.partition('@')[2]}"
    models = [write_mean_model("q.onnx", quantized=True)]
    report = verify(models, providers=[word], allow_fallback=True, require_placement=["cuda>=50%"])
    label = f"{word} (fell back to cpu)"
    assert {row.provider for row in report.rows} == {label}
    assert {check.subject for check in report.checks} == {f"q on {label}"}
    assert [check.name for check in report.checks if check.passed is False] == ["cuda>=50%"]
    (run,) = bench(models, providers=[word], allow_fallback=True, cool_down=0)
    assert (run.provider, run.series[0].provider, run.control.provider) == (label, label, label)
    cause = "a fake with CPUExecutionProvider"
    assert {fact.fallback for fact in derive_parity(report)} == {cause}
    for tables in (tabulate_parity(derive_parity(report)), tabulate_latency(derive_latency(run))):
        assert f"q on {label}: {cause}" in tables[0].notes


def test_copies_to_a_device_are_shown_apart_and_the_wall_clock_decides_there(
    write_mean_model: Write, mean_golden: Path, plug_fake: Plug
) -> None:
    word = plug_fake("fake", FakeTarget(answer=lambda session, inputs: [inputs]))
    (run,) = bench([write_mean_model()], providers=[word], cool_down=0)
    assert choose_clock(run) == "cpu"
    series = msgspec.structs.replace(run.series[0], copy_ns=(2_000_000,) * 40, session={"device": "cuda"})
    run = msgspec.structs.replace(run, series=(series,))
    assert choose_clock(run) == "wall"
    assert (
        "copies to the device and back are in none of these times: 2.00 ms"
        in tabulate_latency(derive_latency(run))[0].notes[-1]
    )
