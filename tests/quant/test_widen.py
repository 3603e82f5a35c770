"""Channels of zeros: added wherever nobody can see them, to the last bit, and nowhere else."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mbdeploy.quant.widen import LANES, widen_depthwise

WIDTH = 20
WIDE = 32
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w1": RNG.normal(0, 0.4, (WIDTH, 3, 1, 1)),
    "b1": RNG.normal(0, 0.4, WIDTH),
    "wd": RNG.normal(0, 0.4, (WIDTH, 1, 3, 3)),
    "bd": RNG.normal(0, 0.4, WIDTH),
    "w2": RNG.normal(0, 0.4, (8, WIDTH, 1, 1)),
    "w3": RNG.normal(0, 0.4, (5, WIDTH, 1, 1)),
    "w5": RNG.normal(0, 0.4, (8, 2 * WIDTH, 1, 1)),
    "w6": RNG.normal(0, 0.4, (2 * WIDTH, 3, 1, 1)),
    "w7": RNG.normal(0, 0.4, (8, 3 * WIDTH, 1, 1)),
    "w8": RNG.normal(0, 0.4, (8, WIDTH + 3, 1, 1)),
    "wt": RNG.normal(0, 0.4, (2 * WIDTH, 1, 3, 3)),
    "bt": RNG.normal(0, 0.4, 2 * WIDTH),
    "w4": RNG.normal(0, 0.4, (WIDTH, 5, 1, 1)),
    "b4": RNG.normal(0, 0.4, WIDTH),
    "v1": RNG.normal(0, 0.4, (1, WIDTH, 1, 1)),
    "vg": RNG.normal(0, 0.4, (WIDTH, 2, 1, 1)),
    "each": RNG.normal(0, 1, (1, WIDTH, 1, 1)),
    "lone": np.float32(1.5),
    "zero": np.float32(0),
    "six": np.float32(6),
}


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], output, **attributes)


EXPAND = node("Conv", ["image", "w1", "b1"], "e")
PROJECT = node("Conv", ["d", "w2"], "out")
PROJECT_ROWS = node("Conv", ["c", "w2"], "out")


def depthwise(source="e", made="d"):
    return node("Conv", [source, "wd", "bd"], made, group=WIDTH, pads=[1, 1, 1, 1])


GATE = [
    node("GlobalAveragePool", ["d"], "p"),
    node("Conv", ["p", "w3"], "squeeze"),
    node("Relu", ["squeeze"], "r"),
    node("Conv", ["r", "w4", "b4"], "excite"),
    node("HardSigmoid", ["excite"], "gate"),
    node("Mul", ["d", "gate"], "gated"),
    node("Conv", ["gated", "w2"], "out"),
]
#: GhostNet's module: what a depthwise layer makes of channels stands beside them.
GHOST = [EXPAND, depthwise(), node("Concat", ["e", "d"], "both", axis=1)]
OPEN = {
    "a block": [EXPAND, depthwise(), PROJECT],
    "a ReLU6 on the way": [EXPAND, node("Clip", ["e", "zero", "six"], "c"), depthwise("c"), PROJECT],
    "h-swish on the way": [EXPAND, node("HardSwish", ["e"], "h"), depthwise("h"), PROJECT],
    "squeeze and excite": [EXPAND, depthwise(), *GATE],
    "a sum of branches": [EXPAND, depthwise(made="m"), node("Add", ["m", "e"], "d"), PROJECT],
    "one number for all": [EXPAND, depthwise(made="m"), node("Mul", ["m", "lone"], "d"), PROJECT],
    "two readers": [EXPAND, depthwise(), PROJECT, node("Conv", ["d", "w3"], "more")],
    "a Concat": [*GHOST, node("Conv", ["both", "w5"], "out")],
    "a depthwise layer behind a Concat": [
        *GHOST,
        node("Conv", ["both", "wt", "bt"], "t", group=2 * WIDTH, pads=[1, 1, 1, 1]),
        node("Conv", ["t", "w5"], "out"),
    ],
    "a sum with a Concat": [
        *GHOST,
        node("Conv", ["image", "w6"], "shortcut"),
        node("Add", ["shortcut", "both"], "sum"),
        node("Conv", ["sum", "w5"], "out"),
    ],
    "a sum of two Concats": [
        *GHOST,
        node("Concat", ["d", "e"], "turned", axis=1),
        node("Add", ["turned", "both"], "sum"),
        node("Conv", ["sum", "w5"], "out"),
    ],
    "a Concat in a Concat": [
        *GHOST,
        node("Concat", ["both", "d"], "three", axis=1),
        node("Relu", ["three"], "r"),
        node("Conv", ["r", "w7"], "out"),
    ],
    "a Concat with the image": [
        EXPAND,
        depthwise(made="m"),
        node("Concat", ["m", "image"], "c", axis=1),
        node("Conv", ["c", "w8"], "out"),
    ],
    "a pool": [EXPAND, depthwise(made="m"), node("MaxPool", ["m"], "d", kernel_shape=[2, 2]), PROJECT],
}
CLOSED = {
    "a constant per channel": [EXPAND, depthwise(made="m"), node("Mul", ["m", "each"], "d"), PROJECT],
    "a Concat that is an output": [EXPAND, depthwise(made="m"), node("Concat", ["m", "e"], "out", axis=1)],
    "a Concat of rows": [EXPAND, depthwise(made="m"), node("Concat", ["m", "e"], "c", axis=2), PROJECT_ROWS],
    "a Concat with channels that no layer knows": [
        EXPAND,
        depthwise(made="m"),
        node("Softmax", ["image"], "soft", axis=1),
        node("Concat", ["m", "soft"], "c", axis=1),
        node("Conv", ["c", "w8"], "out"),
    ],
    "a Concat that somebody sees": [
        *GHOST,
        node("Conv", ["both", "w5"], "out"),
        node("Softmax", ["both"], "more", axis=1),
    ],
    "Concats of other widths in a sum": [
        EXPAND,
        depthwise(),
        node("Concat", ["e", "d", "d"], "three", axis=1),
        node("Conv", ["image", "w6"], "s"),
        node("Concat", ["s", "e"], "others", axis=1),
        node("Add", ["three", "others"], "sum"),
        node("Conv", ["sum", "w7"], "out"),
    ],
    "an output of the graph": [EXPAND, depthwise(made="out")],
    "a group convolution": [EXPAND, depthwise(), node("Conv", ["d", "vg"], "out", group=10)],
    "one channel for all": [
        EXPAND,
        depthwise(made="m"),
        node("Conv", ["m", "v1"], "mask"),
        node("Mul", ["m", "mask"], "d"),
        PROJECT,
    ],
    "a Softmax": [EXPAND, depthwise(made="m"), node("Softmax", ["m"], "d", axis=1), PROJECT],
}


def quantize(quantize_here, make_graph, nodes, images, **options):
    used = {name for item in nodes for name in item.input}
    model = make_graph(nodes, {name: value for name, value in WEIGHTS.items() if name in used})
    if any("more" in item.output for item in nodes):
        model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, None))
    return quantize_here(model, images, recipe="portable", **options)


@pytest.fixture
def unwidened(quantize_here, make_graph, monkeypatch):
    """Quantize as the stage does, but leave the channels as they are."""

    def make(nodes, images, **options):
        monkeypatch.setattr("mbdeploy.stages.quantize_job.widen", lambda placed: {})
        return quantize(quantize_here, make_graph, nodes, images, **options)[0]

    return make


def list_widths(model):
    tensors = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    groups = {item.name: [one.i for one in item.attribute if one.name == "group"] for item in model.graph.node}
    return tensors, groups


@pytest.mark.parametrize("name", OPEN)
def test_a_widened_file_gives_the_same_bits(quantize_here, make_graph, run_graph, draw_images, unwidened, name) -> None:
    images = draw_images(6)
    wide, record = quantize(quantize_here, make_graph, OPEN[name], images)
    plain = unwidened(OPEN[name], images)
    assert record.widened["d" if "d" in record.widened else "m"] == (WIDTH, WIDE)
    assert [WIDE] in list_widths(wide)[1].values()
    onnx.checker.check_model(wide, full_check=True)
    for exact in (False, True):
        for first, second in zip(
            run_graph(plain, images, exact=exact), run_graph(wide, images, exact=exact), strict=True
        ):
            np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", CLOSED)
def test_channels_that_somebody_can_see_stay(quantize_here, make_graph, draw_images, name) -> None:
    int8, record = quantize(quantize_here, make_graph, CLOSED[name], draw_images(6))
    assert record.widened == {}
    assert list_widths(int8)[0]["wd_quantized"] == (WIDTH, 1, 3, 3)


def test_an_input_of_the_graph_is_not_widened(quantize_here, make_graph, draw_images) -> None:
    weights = {"w": RNG.normal(0, 1, (3, 1, 3, 3)), "v": RNG.normal(0, 1, (4, 3, 1, 1))}
    nodes = [node("Conv", ["image", "w"], "d", group=3), node("Conv", ["d", "v"], "out")]
    assert quantize_here(make_graph(nodes, weights), draw_images(6), recipe="portable")[1].widened == {}


def test_new_weights_and_biases_are_zero_and_new_scales_the_last_ones(quantize_here, make_graph, draw_images) -> None:
    int8, _ = quantize(quantize_here, make_graph, OPEN["a block"], draw_images(6))
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in int8.graph.initializer}
    for name, axis in (("w1", 0), ("wd", 0), ("w2", 1), ("b1", 0), ("bd", 0)):
        stored = np.moveaxis(tensors[f"{name}_quantized"], axis, 0)
        assert len(stored) == WIDE
        assert not stored[WIDTH:].any()
        assert stored[:WIDTH].any()
    for name in ("w1_scale", "wd_scale"):
        assert tensors[name].shape == (WIDE,)
        assert (tensors[name][WIDTH:] == tensors[name][WIDTH - 1]).all()
    assert tensors["w2_scale"].shape == (8,)


def test_weights_around_128_have_no_faster_kernel_and_stay(quantize_here, make_graph, draw_images) -> None:
    used = {name for item in OPEN["a block"] for name in item.input}
    model = make_graph(OPEN["a block"], {name: value for name, value in WEIGHTS.items() if name in used})
    assert quantize_here(model, draw_images(6), recipe="u8u8")[1].widened == {}


def test_a_float_depthwise_layer_stays(make_graph) -> None:
    used = {name for item in OPEN["a block"] for name in item.input}
    model = make_graph(OPEN["a block"], {name: value for name, value in WEIGHTS.items() if name in used})
    before = model.SerializeToString()
    assert widen_depthwise(model) == {}
    assert model.SerializeToString() == before


def compute_weight(model):
    weight = next(item for item in model.graph.node if item.input[0] == "wd_quantized")
    model.graph.node.insert(0, node("Identity", ["wd_quantized"], "computed"))
    weight.input[0] = "computed"


def share_weight(model):
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.INT8, None))
    model.graph.node.append(node("Identity", ["wd_quantized"], "other"))


def add_branch(model):
    conv = next(item for item in model.graph.node if item.name == "d")
    then = [node("Identity", [conv.output[0]], "t")]
    branch = helper.make_graph(then, "then", [], [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    model.graph.node.append(node("If", ["yes"], "seen", then_branch=branch, else_branch=branch))


@pytest.mark.parametrize("change", [compute_weight, share_weight, add_branch])
def test_constants_that_are_computed_or_shared_and_branches_stand_in_the_way(unwidened, draw_images, change) -> None:
    model = unwidened(OPEN["a block"], draw_images(6))
    assert widen_depthwise(onnx.ModelProto.FromString(model.SerializeToString())) == {"d": (WIDTH, WIDE)}
    change(model)
    before = model.SerializeToString()
    assert widen_depthwise(model) == {}
    assert model.SerializeToString() == before


def test_whole_vectors_stay(quantize_here, make_graph, draw_images) -> None:
    weights = {
        "w1": RNG.normal(0, 1, (LANES, 3, 1, 1)),
        "wd": RNG.normal(0, 1, (LANES, 1, 3, 3)),
        "w2": RNG.normal(0, 1, (4, LANES, 1, 1)),
    }
    nodes = [
        node("Conv", ["image", "w1"], "e"),
        node("Conv", ["e", "wd"], "d", group=LANES),
        node("Conv", ["d", "w2"], "out"),
    ]
    assert quantize_here(make_graph(nodes, weights), draw_images(6), recipe="portable")[1].widened == {"e": (3, 4)}


IMAGE = {"w": RNG.normal(0, 0.4, (16, 3, 3, 3)), "b": RNG.normal(0, 0.4, 16), "v": RNG.normal(0, 0.4, (24, 3, 1, 1))}
FIRST = node("Conv", ["image", "w", "b"], "out", pads=[1, 1, 1, 1], strides=[2, 2])


def test_an_image_of_three_channels_gets_a_fourth_and_no_output_changes_by_a_bit(
    quantize_here, make_graph, run_graph, draw_images, monkeypatch
) -> None:
    model, images = make_graph([FIRST], {"w": IMAGE["w"], "b": IMAGE["b"]}), draw_images(6)
    wide, record = quantize_here(model, images, recipe="portable")
    assert record.widened == {"out": (3, 4)}
    assert list_widths(wide)[0]["w_quantized"] == (16, 4, 3, 3)
    onnx.checker.check_model(wide, full_check=True)
    monkeypatch.setattr("mbdeploy.quant.widen_image.widen_image", lambda placed: {})
    plain, _ = quantize_here(model, images, recipe="portable")
    for exact in (False, True):
        np.testing.assert_array_equal(run_graph(wide, images, exact=exact)[0], run_graph(plain, images, exact=exact)[0])


@pytest.mark.parametrize(
    ("recipe", "written", "nodes"),
    [
        ("portable", 12, [FIRST]),
        ("u8u8", 16, [FIRST]),
        ("s8s8-symmetric", 16, [FIRST]),
        (
            "portable",
            16,
            [node("Conv", ["image", "w", "b"], "c"), node("MaxPool", ["image"], "m", kernel_shape=[3, 3])],
        ),
    ],
)
def test_an_image_stays_where_a_reader_has_no_fast_kernel(
    quantize_here, make_graph, draw_images, recipe, written, nodes
) -> None:
    join = [] if nodes == [FIRST] else [node("Concat", ["c", "m"], "out", axis=1)]
    model = make_graph([*nodes, *join], {"w": IMAGE["w"][:written], "b": IMAGE["b"][:written]})
    assert quantize_here(model, draw_images(6), recipe=recipe)[1].widened == {}


def test_two_layers_that_read_an_image_share_its_fourth_channel(
    quantize_here, make_graph, run_graph, draw_images
) -> None:
    nodes = [
        node("Conv", ["image", "w", "b"], "c"),
        node("Conv", ["image", "v"], "d"),
        node("GlobalAveragePool", ["c"], "p"),
        node("GlobalAveragePool", ["d"], "q"),
        node("Concat", ["p", "q"], "out", axis=1),
    ]
    model, images = make_graph(nodes, IMAGE), draw_images(6)
    int8, record = quantize_here(model, images, recipe="portable")
    assert record.widened == {"c": (3, 4), "d": (3, 4)}
    assert [item.input[0] for item in int8.graph.node if item.op_type == "Pad"] == ["image"]  # QNN pads no bytes
    wanted, found = run_graph(model, images)[0], run_graph(int8, images)[0]
    assert np.abs(wanted - found).max() < 0.03 * np.abs(wanted).max()
