"""Which channels can clip on which CPU, and which outputs do."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import CLEAN, CLIPPING, as_conv, make_dynamic, make_gemm, make_qdq, make_qlinear
from numpy.typing import NDArray

from mbdeploy.auditing.clipping import count_clipped, find_unsafe, merge_tallies
from mbdeploy.auditing.cpus import CPUS, KINDS, find_hazards
from mbdeploy.auditing.products import Product, read_products


def read(model: onnx.ModelProto) -> tuple[Product, onnx.NodeProto]:
    reading = read_products(model, "file")
    return reading.products[0], reading.tensors.nodes[reading.products[0].index]


@pytest.mark.parametrize(
    ("model", "unsafe"),
    [
        (make_qdq(), [True, True, False, False]),
        (make_qlinear(), [True, True, False, False]),
        (make_gemm(), [True, True, False, False]),
        (make_gemm(qoperator=True), [True, True, False, False]),
        (make_qdq(activation="s8"), [True, True, False, False]),
        (make_qlinear(activation="s8"), [False] * 4),
        (make_dynamic(), [True, True, False, False]),
        (make_dynamic(conv=True), [False] * 4),
        (make_qdq(as_conv(CLEAN)), [False] * 4),
        (make_qdq(as_conv(CLIPPING).astype(np.uint8)), [False] * 4),
        (make_qdq(np.full((4, 1, 3, 3), 127, np.int8), group=4), [False] * 4),
    ],
)
def test_channels_that_can_clip_follow_from_types_and_integers(model: onnx.ModelProto, unsafe: list[bool]) -> None:
    assert find_unsafe(read(model)[0])["pairs"].tolist() == unsafe


def test_two_weights_of_minus_128_are_a_matter_of_arm_alone() -> None:
    weight = CLEAN.copy()
    weight[0] = [-128, 0, 0, -128]
    weight[1] = [-128, 0, 0, -127]
    found = find_unsafe(read(make_qlinear(as_conv(weight), activation="s8"))[0])
    assert found["twins"].tolist() == [True, False, False, False]
    assert not found["pairs"].any()


def test_every_kind_of_product_is_exact_with_vnni_and_with_dot_product() -> None:
    for kind in KINDS:
        hazards = find_hazards(kind)
        assert len(hazards) == len(CPUS)
        assert hazards["x86 with VNNI or AMX"] == hazards["ARM with dot product or i8mm"] == ""
    assert set(find_hazards("u16s8").values()) == {""}


def clip_by_hand(inputs: NDArray[np.int64], weights: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of rows (n, k) and weights (m, k) as vpmaddubsw adds them."""
    sums = np.zeros((len(inputs), len(weights)), np.int64)
    for start in range(0, inputs.shape[1], 2):
        pair = inputs[:, start : start + 2] @ weights[:, start : start + 2].T
        sums += np.clip(pair, -32768, 32767)
    return sums


@pytest.mark.parametrize("activation", ["u8", "s8"])
def test_outputs_that_clip_are_those_of_the_instruction(activation: str) -> None:
    rng = np.random.default_rng(0)
    product, node = read(make_qdq(activation=activation))
    kind = np.uint8 if activation == "u8" else np.int8
    values = rng.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, (1, 4, 4, 4)).astype(kind)
    tally = count_clipped(product, node, values, (0,))
    stored = values[0].reshape(4, -1).T.astype(np.int64) + (128 if activation == "s8" else 0)
    weights = CLIPPING.astype(np.int64)
    lost = stored @ weights.T - clip_by_hand(stored, weights)
    signal = values[0].reshape(4, -1).T.astype(np.float64) @ weights.T
    assert tally is not None
    assert (tally.outputs, tally.clipped) == (64, np.count_nonzero(lost))
    assert tally.clipped > 0
    assert tally.noise == float((lost**2).sum())
    assert tally.signal == float((signal**2).sum())


def test_padding_is_the_zero_point_and_clips_too() -> None:
    weight = np.full((1, 2, 3, 3), 127, np.int8)
    model = make_qdq(weight, scale=[0.01])
    for tensor in model.graph.initializer:
        if tensor.name == "zero":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.uint8(200), "zero"))
    node = next(node for node in model.graph.node if node.name == "layer")
    node.attribute.append(onnx.helper.make_attribute("pads", [1, 1, 1, 1]))
    product, node = read(model)
    tally = count_clipped(product, node, np.zeros((1, 2, 4, 4), np.uint8), (0,))
    # The four inner positions see zeros only; the twelve at the border see 200s beside each other.
    assert tally is not None
    assert (tally.outputs, tally.clipped) == (16, 12)


def test_the_map_of_a_strided_and_dilated_convolution_is_measured_right() -> None:
    model = make_qdq(np.ones((2, 2, 3, 3), np.int8), size=9)
    node = next(node for node in model.graph.node if node.name == "layer")
    node.attribute.extend([onnx.helper.make_attribute("strides", [2, 2])])
    node.attribute.extend([onnx.helper.make_attribute("dilations", [2, 2])])
    product, node = read(model)
    tally = count_clipped(product, node, np.zeros((1, 2, 9, 9), np.uint8), (0,))
    assert tally is not None
    assert tally.outputs == 3 * 3 * 2


def test_tallies_of_several_images_add_up() -> None:
    product, node = read(make_qdq())
    full = np.full((1, 4, 4, 4), 255, np.uint8)
    one = count_clipped(product, node, full, (0,))
    none = count_clipped(product, node, np.zeros((1, 4, 4, 4), np.uint8), (1,))
    assert one is not None and none is not None
    both = merge_tallies(one, none)
    assert (one.share, none.share, both.share) == (0.5, 0.0, 0.25)
    assert none.sqnr_db == float("inf")
    assert both.noise == one.noise
