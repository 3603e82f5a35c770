"""SqueezeNet 1.0 (https://arxiv.org/abs/1602.07360) and 1.1 (https://github.com/forresti/SqueezeNet)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import Layer, StagedNet, choose

POOL = "pool"


class Variant(NamedTuple):
    """Channels and kernel of conv1, then fire modules (squeeze, expand 1x1, expand 3x3) and pools."""

    channels: int
    kernel: int
    rows: tuple[tuple[int, int, int] | str, ...]


VARIANTS = {
    "1.0": Variant(  # paper, table 1
        96,
        7,
        (
            POOL,
            (16, 64, 64),
            (16, 64, 64),
            (32, 128, 128),
            POOL,
            (32, 128, 128),
            (48, 192, 192),
            (48, 192, 192),
            (64, 256, 256),
            POOL,
            (64, 256, 256),
        ),
    ),
    "1.1": Variant(
        64,
        3,
        (
            POOL,
            (16, 64, 64),
            (16, 64, 64),
            POOL,
            (32, 128, 128),
            (32, 128, 128),
            POOL,
            (48, 192, 192),
            (48, 192, 192),
            (64, 256, 256),
            (64, 256, 256),
        ),
    ),
}


class Fire(nn.Module):
    """Squeeze by a 1x1 convolution, expand by 1x1 and 3x3 ones side by side."""

    def __init__(self, cin: int, squeeze: int, expand1: int, expand3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(cin, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand1, 1)
        self.expand3 = nn.Conv2d(squeeze, expand3, 3, padding=1)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.squeeze(x))
        return torch.cat([self.act(self.expand1(x)), self.act(self.expand3(x))], dim=1)


def squeezenet(
    *, version: str = "1.1", classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """SqueezeNet: logits (N, classes), or maps at strides 2, 4, 8, 16 with ``features_only``.

    conv1 is not padded: the paper's 111 pixels after it come from 227, not from the 224 it prints.
    conv10 is not padded either, as in the paper's table (13 x 13); the authors' prototxt pads it by 1.
    """
    table = choose("squeezenet version", version, VARIANTS)
    cin = table.channels
    conv1 = nn.Sequential(nn.Conv2d(in_channels, cin, table.kernel, 2), nn.ReLU())
    layers: list[Layer] = [(conv1, cin, 2)]
    for row in table.rows:
        if isinstance(row, str):
            layers.append((nn.MaxPool2d(3, 2, ceil_mode=True), cin, 2))
        else:
            squeeze, expand1, expand3 = row
            layers.append((Fire(cin, squeeze, expand1, expand3), expand1 + expand3, 1))
            cin = expand1 + expand3
    head = nn.Sequential(nn.Conv2d(cin, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return StagedNet(layers, None if features_only else head)
