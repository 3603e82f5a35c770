"""A graph that was made for two batch sizes becomes one for any, or is refused."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from mbdeploy.rewrites.batch import fix_batch, free_batch

SHUFFLE = "r = Reshape (image, split) t = Transpose <perm=[0,2,1,3,4]> (r) y = Reshape (t, join)"


@pytest.fixture
def fixed(build_graph):
    """The graph ``nodes`` for batch 7 and for batch 11, with constants that are computed from the batch."""

    def build(nodes: str, **constants) -> tuple[ir.Model, ir.Model]:
        models = []
        for batch in (7, 11):
            values = {name: value(batch) if callable(value) else value for name, value in constants.items()}
            model = build_graph(nodes, **values)
            fix_batch(model, "image", batch)
            models.append(ir.from_proto(model))
        return tuple(models)

    return build


def test_fixing_sets_the_batch_of_the_named_input_and_forgets_inferred_shapes(build_graph) -> None:
    model = build_graph("r = Relu (image) y = Relu (r)")
    model.graph.value_info.add(name="r")
    fix_batch(model, "image", 7)
    assert [axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim] == [7, 3, 8, 8]
    assert not model.graph.value_info


def test_a_reshape_to_the_batch_follows_any_batch(fixed, build_graph, assert_same) -> None:
    source = build_graph(SHUFFLE, split=[-1, 3, 2, 4, 8], join=[0, -1, 4, 8])
    one, other = fixed(SHUFFLE, split=lambda n: [n, 3, 2, 4, 8], join=lambda n: [n, -1, 4, 8])
    freed = ir.to_proto(free_batch(one, other, ir.from_proto(source)))
    targets = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in freed.graph.initializer}
    assert targets["r/shape"] == [-1, 3, 2, 4, 8]
    assert targets["y/shape"] == [-1, 6, 4, 8]
    sizes = {value.name: value.type.tensor_type.shape.dim[0].dim_param for value in freed.graph.value_info}
    assert freed.graph.input[0].type.tensor_type.shape.dim[0].dim_param == sizes["r"] == sizes["t"] == "N"
    assert_same(source, freed)


def test_the_batch_times_a_size_follows_any_batch(fixed, build_graph, assert_same) -> None:
    nodes = "y = Reshape (image, to)"
    source = build_graph(nodes, to=[-1, 8])
    one, other = fixed(nodes, to=lambda n: [n * 24, 8])
    assert_same(source, ir.to_proto(free_batch(one, other, ir.from_proto(source))))


def test_a_resize_to_sizes_becomes_scales(fixed, build_graph, assert_same) -> None:
    nodes = 'y = Resize <mode="linear"> (image, , , to)'
    scaled = build_graph('y = Resize <mode="linear"> (image, , scales)', scales=(4,))
    scaled.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.array([1, 1, 2, 1.5], np.float32), "scales"))
    one, other = fixed(nodes, to=lambda n: [n, 3, 16, 12])
    assert_same(scaled, ir.to_proto(free_batch(one, other, ir.from_proto(scaled))))


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ("y = Expand (image, to)", {"to": lambda n: [n, 3, 8, 8]}, "follows the batch in Expand"),
        ("y = Reshape (to, image)", {"to": lambda n: [n, 3]}, "follows the batch in Reshape"),
        ("f = Flatten (image) y = Reshape (f, to)", {"to": lambda n: [84, 16] if n == 7 else [33, 64]}, "sizes"),
        ("y = Mul (image, k)", {"k": lambda n: (n, 1, 1, 1)}, "follows the batch in Mul"),
        ('y = Resize <mode="linear"> (image, , , to)', {"to": lambda n: [2 * n, 3, 8, 8]}, "Resize"),
    ],
)
def test_what_else_follows_the_batch_is_refused(fixed, build_graph, nodes, constants, reason) -> None:
    one, other = fixed(nodes, **constants)
    with pytest.raises(ValueError, match=reason):
        free_batch(one, other, ir.from_proto(build_graph(nodes)))


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("y = Relu (image)", "r = Relu (image) y = Relu (r)", "1 and 2 nodes"),
        ("y = Relu (image)", "y = Exp (image)", "unlike nodes"),
        ("y = Concat <axis=0> (image, image)", "y = Concat <axis=1> (image, image)", "unlike nodes"),
        ("r = Relu (image) y = Add (r, image)", "r = Relu (image) y = Add (image, r)", "unlike nodes"),
    ],
)
def test_two_graphs_that_differ_are_refused(build_graph, first, second, reason) -> None:
    one, other = (ir.from_proto(build_graph(nodes)) for nodes in (first, second))
    with pytest.raises(ValueError, match=reason):
        free_batch(one, other, ir.from_proto(build_graph(first)))


def test_a_renamed_output_is_refused(build_graph) -> None:
    one, other = (ir.from_proto(build_graph("y = Relu (image)")) for _ in range(2))
    source: onnx.ModelProto = build_graph("y = Relu (image)")
    source.graph.output[0].name = "z"
    with pytest.raises(ValueError, match="'y'"):
        free_batch(one, other, ir.from_proto(source))
