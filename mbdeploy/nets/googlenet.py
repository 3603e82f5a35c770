"""GoogLeNet (Inception v1); https://arxiv.org/abs/1409.4842"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import Layer, StagedNet, make_classifier

# Table 1: #1x1, #3x3 reduce, #3x3, #5x5 reduce, #5x5, pool proj; None is a 3x3 max pooling, stride 2.
Widths = tuple[int, int, int, int, int, int]
INCEPTIONS: tuple[Widths | None, ...] = (
    (64, 96, 128, 16, 32, 32),  # 3a
    (128, 128, 192, 32, 96, 64),  # 3b
    None,
    (192, 96, 208, 16, 48, 64),  # 4a
    (160, 112, 224, 24, 64, 64),  # 4b
    (128, 128, 256, 24, 64, 64),  # 4c
    (112, 144, 288, 32, 64, 64),  # 4d
    (256, 160, 320, 32, 128, 128),  # 4e
    None,
    (256, 160, 320, 32, 128, 128),  # 5a
    (384, 192, 384, 48, 128, 128),  # 5b
)


class Inception(nn.Module):
    """Four branches side by side: 1x1; 3x3 and 5x5 behind a 1x1; 1x1 behind a pooling (figure 2 b)."""

    def __init__(self, cin: int, widths: Widths) -> None:
        super().__init__()
        ones, reduce3, threes, reduce5, fives, pooled = widths
        self.branch1 = _conv(cin, ones, 1)
        self.branch3 = nn.Sequential(_conv(cin, reduce3, 1), _conv(reduce3, threes, 3))
        self.branch5 = nn.Sequential(_conv(cin, reduce5, 1), _conv(reduce5, fives, 5))
        self.branch_pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _conv(cin, pooled, 1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch1(x), self.branch3(x), self.branch5(x), self.branch_pool(x)], dim=1)


def googlenet(*, classes: int = 1000, in_channels: int = 3, features_only: bool = False) -> nn.Module:
    """GoogLeNet: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    Without the auxiliary classifiers, which serve training only, and without local response
    normalisation, which has no weights.
    """
    cin = 192
    layers: list[Layer] = [
        (_conv(in_channels, 64, 7, 2), 64, 2),
        (nn.MaxPool2d(3, 2, 1), 64, 2),
        (nn.Sequential(_conv(64, 64, 1), _conv(64, cin, 3)), cin, 1),
        (nn.MaxPool2d(3, 2, 1), cin, 2),
    ]
    for widths in INCEPTIONS:
        if widths is None:
            layers.append((nn.MaxPool2d(3, 2, 1), cin, 2))
        else:
            cout = widths[0] + widths[2] + widths[4] + widths[5]
            layers.append((Inception(cin, widths), cout, 1))
            cin = cout
    return StagedNet(layers, None if features_only else make_classifier(cin, classes))


def _conv(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, kernel // 2), nn.ReLU())
