"""What a network returns: outputs under the names that its author gave them, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from mbdeploy.errors import ModelError
from mbdeploy.nets.running import run_network


class Boxes(NamedTuple):
    corners: Tensor
    scores: Tensor


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(x)


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda x: x, ["output_0"]),
        (lambda x: (x, [x]), ["output_0", "output_1"]),
        (lambda x: {"heat": x, "classes": x}, ["heat", "classes"]),
        (lambda x: {"boxes": [x, x], "aux": {"mask": x}}, ["boxes_0", "boxes_1", "aux_mask"]),
        (lambda x: Boxes(x, x), ["corners", "scores"]),
        (lambda x: (x, {"heat": x}), ["output_0", "output_1"]),
        (lambda x: {"image": x}, ["output_0"]),
        (lambda x: {"a_b": x, "a": {"b": x}}, ["output_0", "output_1"]),
        (lambda x: {"a/b": x}, ["output_0"]),
        (lambda x: {7: x}, ["output_0"]),
    ],
)
def test_an_output_has_the_name_of_its_key_unless_that_is_no_name_or_taken(
    make: Callable[[Tensor], Any], names: list[str]
) -> None:
    found = run_network(Returns(make), torch.ones(2, 3), "here")
    assert list(found) == names
    assert all(torch.equal(output, torch.ones(2, 3)) for output in found.values())


@pytest.mark.parametrize("nothing", [{}, (), []])
def test_a_network_without_outputs_is_refused(nothing: Any) -> None:
    with pytest.raises(ModelError, match="at least one output, found none"):
        run_network(Returns(lambda x: nothing), torch.ones(2, 3), "here")
