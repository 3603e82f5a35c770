"""The table of rewrites: every row can be loaded, plug-ins come after, and the loop stops."""

from __future__ import annotations

from importlib import metadata

import onnx_ir as ir
import pytest

from mbdeploy import rewrites
from mbdeploy.errors import UsageError
from mbdeploy.rewrites import REWRITES, list_rewrites, load_rewrite, rewrite_model


@pytest.mark.parametrize("name", REWRITES)
def test_every_row_can_be_loaded(name) -> None:
    assert callable(load_rewrite(name))


def test_an_unknown_rewrite_is_refused_with_the_list_of_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"no_such.*pad_into_conv.*no such rewrite"):
        load_rewrite("no_such")


def test_an_installed_plug_in_comes_after_our_own_and_is_loaded_by_name(monkeypatch) -> None:
    ours = next(iter(REWRITES))
    points = metadata.EntryPoints(
        metadata.EntryPoint(name, "builtins:list", rewrites.ENTRY_POINTS) for name in ("zeta", "alpha", ours)
    )
    monkeypatch.setattr(metadata, "entry_points", points.select)
    assert list_rewrites() == [*REWRITES, "alpha", "zeta"]
    assert load_rewrite("alpha") is list
    assert load_rewrite(ours) is not list


def test_a_change_that_a_later_rewrite_makes_possible_is_found_in_the_next_round(build_graph) -> None:
    nodes = "p = Pad (image, pads) i = Identity (p) y = Conv (i, w, b)"
    graph = build_graph(nodes, pads=[0, 0, 1, 1, 0, 0, 1, 1], w=(4, 3, 3, 3), b=(4,))
    model = ir.from_proto(graph)
    changes = rewrite_model(model, ["pad_into_conv", "drop_no_ops"])
    assert [(change.name, change.count) for change in changes] == [("pad_into_conv", 1), ("drop_no_ops", 1)]
    assert [node.op_type for node in model.graph] == ["Conv"]


def test_a_rewrite_that_never_settles_is_stopped(build_graph, monkeypatch) -> None:
    monkeypatch.setattr(rewrites, "load_rewrite", lambda name: lambda model: ["again"])
    (change,) = rewrite_model(ir.from_proto(build_graph("y = Relu (image)")), ["restless"])
    assert change.nodes == ("again",) * change.count
    assert change.count == 10


def test_nodes_without_a_name_get_one(build_graph) -> None:
    model = ir.from_proto(build_graph("r = Relu (image) y = ReduceMean <axes=[2,3]> (r)"))
    (change,) = rewrite_model(model, ["mean_to_global_pool"])
    names = [node.name for node in model.graph]
    assert all(names)
    assert len(set(names)) == len(names)
    assert change.nodes == (names[1],)
