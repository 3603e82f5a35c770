"""What must hold of every variant's files, and the tables of what is moved and what stays in float, with the reason.

``conftest.py`` makes the variants: a few tiny ones for the slow tier, all others for the sweep. Nothing here is
about accuracy, because the weights come from a seed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
from onnx import parser

ROUNDING = 1e-5  # of the largest output: folding a batch norm reorders sums
GAP_DB = 0.6  # twice the default of Budgets, which is meant for 32 images: a quarter of them scatter twice as far
NOISE_DB = 5.0  # untrained and calibrated on few images, GhostNet 1.3 is worst with 5.6
#: Channel shuffles (Reshape, Transpose, Reshape) and channel splits in the figures of the papers; no other net has
#: any. Besides, one Reshape leads to every classifier.
DRAWN = {
    "fbnet variant=a": {"Transpose": 3},
    "shufflenet_v1": {"Transpose": 16},
    "shufflenet_v2": {"Transpose": 16, "Split": 13},
}
#: How many nodes stay in float, by operator; a family that is not named has none. docs/zoo.md says the same.
FLOATS = {
    "espnet": {"PRelu": 20, "BatchNormalization": 17, "ConvTranspose": 3, "Concat": 1},
    "espnet features": {"PRelu": 16, "BatchNormalization": 15, "Concat": 1},
    "espnetv2": {"PRelu": 57, "BatchNormalization": 17},
    "espnetv2 features": {"PRelu": 55, "BatchNormalization": 17},
}
REASONS = {
    "BatchNormalization": "follows no convolution that can take it in, or `mbdeploy simplify` did not run",
    "Concat": "kept in float: its neighbours have no int8 kernel",
    "ConvTranspose": "no int8 kernel in ONNX Runtime's CPU provider",
    "PRelu": "no int8 kernel in ONNX Runtime's CPU provider",
}
#: What runs on 8 bits, or at the border of what does; the Pad gives an image a fourth channel.
INT8 = re.compile(r"QLinear\w+|QGemm|(Dequantize|Quantize)Linear|(Nhwc)?MaxPool|Reshape|Transpose|Split|Pad")


def test_raw_and_simplified_give_torchs_outputs_within_the_default_budget(made: Any) -> None:
    checks = [check for check in made.facts.checks if check.name == "max_abs"]
    assert len(checks) == 2 * (len(made.facts.axes) - 1)
    assert [check for check in checks if not check.passed] == []


def test_simplified_equals_raw_at_batch_1_and_at_batch_3(made: Any) -> None:
    facts = made.facts
    assert facts.onnxsim == ("OK", "fixed batch")
    assert set(facts.axes) == {"batch"}
    assert set(facts.batches) == {1, 3}
    assert all(difference <= ROUNDING for difference in facts.batches.values())


def test_no_shape_chain_is_left_and_nothing_is_moved_that_no_figure_draws(made: Any) -> None:
    variant, facts, _ = made
    assert facts.chains == ()
    drawn = {} if variant.args.get("groups") == 1 else DRAWN.get(variant.family.removesuffix(" features"), {})
    has_classifier = variant.net != "espnet" and not variant.args.get("features_only", False)
    reshapes = 2 * drawn.get("Transpose", 0) + has_classifier
    assert facts.moves == {**drawn, **({"Reshape": reshapes} if reshapes else {})}


def test_int8_runs_as_it_is_written_on_every_cpu(made: Any) -> None:
    facts = made.facts
    assert facts.clipping == ()
    gaps = [check.value for check in facts.checks if check.name == "exact_gap_db"]
    assert len(gaps) == len(facts.axes) - 1
    assert all(gap < GAP_DB for gap in gaps)
    assert all(sqnr_db > NOISE_DB for sqnr_db in facts.sqnr_db)


def test_the_graph_counts_as_much_as_the_network(made: Any) -> None:
    """Every batch norm that a convolution took in has left its shift there, as a bias, and no scale."""
    _, facts, expected = made
    assert facts.uncounted == ()
    assert facts.macs == expected.macs["all"]
    assert facts.weights == sum(weights for _, weights in expected.by_kind.values())
    scales = (expected.params["all"] - expected.params["no batch norm"]) // 2
    assert facts.parameters == expected.params["all"] - scales + facts.norm_features


def test_only_what_the_table_lists_stays_in_float_and_why(made: Any) -> None:
    variant, facts, _ = made
    floats = FLOATS.get(variant.family, {})
    assert facts.floats == floats
    assert facts.reasons == {operator: REASONS[operator] for operator in floats}


def test_all_else_runs_in_int8(made: Any) -> None:
    variant, facts, _ = made
    floats = {operator: nodes for operator, nodes in facts.ran.items() if not INT8.fullmatch(operator)}
    assert floats == FLOATS.get(variant.family, {})


def test_a_computed_size_and_a_cut_of_rows_are_shape_chains_and_a_cut_of_channels_is_not(
    search_shape_chains: Callable[[onnx.ModelProto], list[str]],
) -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["": 17]>
        small (float[N, 4, 8, 8] image) => (float[N, 128] y)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] four = {4}, int64[1] rest = {-1}> {
            sizes = Shape (image)
            batch = Slice (sizes, zero, one, zero)
            target = Concat <axis = 0> (batch, rest)
            half = Slice (image, zero, two, one)
            quarter = Slice (half, zero, four, two)
            y = Reshape (quarter, target)
        }""")
    for node in model.graph.node:
        node.name = f"of {node.output[0]}"
    assert search_shape_chains(onnx.shape_inference.infer_shapes(model)) == [
        "Shape of sizes",
        "Shape of sizes works on sizes",
        "Slice of batch works on sizes",
        "Slice of batch works on batch",
        "Slice of batch cuts along [0]",
        "Concat of target works on batch",
        "Concat of target works on target",
        "Slice of quarter cuts along [2]",
        "Reshape of y works on target",
    ]


def test_the_page_of_the_zoo_lists_the_same_nodes() -> None:
    page = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.+?) \|", page, re.MULTILINE))
    listed = {
        family: ", ".join(f"{nodes} {operator}" for operator, nodes in floats.items())
        for family, floats in FLOATS.items()
    }
    assert rows == listed
