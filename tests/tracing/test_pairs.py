"""Which float tensor an 8-bit one stands for, and what a graph gives that hands all of them out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from mbdeploy.tracing.pairs import mark_outputs, pair_tensors

Build = Callable[..., onnx.ModelProto]
Undo = Callable[[onnx.ModelProto], onnx.ModelProto]


def test_a_pair_has_the_name_that_the_quantizer_kept_and_the_graph_s_output_its_own(
    build_chain: Build, undo_quantization: Undo
) -> None:
    model = build_chain(layers=3)
    pairs, unpaired = pair_tensors(model, undo_quantization(model))
    assert [(pair.cut.tensor, pair.tensor, pair.sources) for pair in pairs] == [
        ("q1", "c1", ()),
        ("q2", "c2", ("c1",)),
        ("q3", "y", ("c2",)),
    ]
    assert unpaired == []


def test_an_activation_that_the_range_implies_is_part_of_the_pair(build_chain: Build, undo_quantization: Undo) -> None:
    model = build_chain(layers=2, zero=0)
    floats = undo_quantization(model)
    floats.graph.node[1].input[0] = "r1"
    floats.graph.node.insert(1, helper.make_node("Relu", ["c1"], ["r1"], "relu1"))
    assert [pair.tensor for pair in pair_tensors(model, floats)[0]] == ["r1", "y"]
    kept = build_chain(layers=2)
    kept.graph.node.append(helper.make_node("Relu", ["d1"], ["r1"], "relu1"))
    assert [pair.tensor for pair in pair_tensors(kept, floats)[0]] == ["c1", "y"]


def test_a_tensor_without_a_pair_is_named_and_its_sources_are_those_of_whoever_reads_it(
    build_chain: Build, undo_quantization: Undo
) -> None:
    model = build_chain(layers=3)
    floats = undo_quantization(model)
    floats.graph.node[1].output[0] = floats.graph.node[2].input[0] = "renamed"
    pairs, unpaired = pair_tensors(model, floats)
    assert [(pair.tensor, pair.sources) for pair in pairs] == [("c1", ()), ("y", ("c1",))]
    assert unpaired == ["q2"]


def test_the_image_is_no_layer_even_if_it_was_padded(build_chain: Build, undo_quantization: Undo) -> None:
    model = build_chain(layers=1)
    floats = undo_quantization(model)
    model.graph.node[0].input[0] = "padded"
    model.graph.node.insert(0, helper.make_node("Pad", ["x", "by"], ["padded"], "pad"))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(8, np.int64), "by"))
    pairs, unpaired = pair_tensors(model, floats)
    assert [(pair.tensor, pair.sources) for pair in pairs] == [("y", ())]
    assert unpaired == []


def test_outputs_that_are_marked_come_behind_the_graph_s_own(build_chain: Build, undo_quantization: Undo) -> None:
    model = build_chain(layers=2)
    images = np.random.default_rng(1).uniform(0, 1, (2, 1, 6, 6)).astype(np.float32)
    pairs, _ = pair_tensors(model, undo_quantization(model))
    marked = mark_outputs(model, pairs)
    assert [value.name for value in marked.graph.output] == ["y", "q1", "q2"]
    assert [value.name for value in model.graph.output] == ["y"]
    y, _, last = ReferenceEvaluator(marked).run(None, {"x": images})
    assert np.array_equal(pairs[1].cut.decode(last), y)
