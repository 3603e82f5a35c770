"""GhostNet: half of each map made by cheap operations; https://arxiv.org/abs/1911.11907"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import ConvBnAct, Layer, SqueezeExcite, StagedNet, round_channels


class Row(NamedTuple):
    """One bottleneck of the paper's table 7: kernel, expanded channels, channels, SE, stride."""

    kernel: int
    hidden: int
    channels: int
    excite: bool
    stride: int


ROWS = (
    Row(3, 16, 16, False, 1),
    Row(3, 48, 24, False, 2),
    Row(3, 72, 24, False, 1),
    Row(5, 72, 40, True, 2),
    Row(5, 120, 40, True, 1),
    Row(3, 240, 80, False, 2),
    Row(3, 200, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 184, 80, False, 1),
    Row(3, 480, 112, True, 1),
    Row(3, 672, 112, True, 1),
    Row(5, 672, 160, True, 2),
    Row(5, 960, 160, False, 1),
    Row(5, 960, 160, True, 1),
    Row(5, 960, 160, False, 1),
    Row(5, 960, 160, True, 1),
)
STEM, LAST, HEAD = 16, 960, 1280
DIVISOR = 4  # of every width
ALPHAS = (0.5, 1.0, 1.3)


class GhostModule(nn.Module):
    """A 1x1 convolution makes half of the channels, a depthwise 3x3 of those the other half."""

    def __init__(self, cin: int, cout: int, act: str) -> None:
        super().__init__()
        half = cout // 2
        self.primary = ConvBnAct(cin, half, 1, act=act)
        self.cheap = ConvBnAct(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)


class GhostBottleneck(nn.Module):
    """Two ghost modules, a depthwise convolution between them where it strides (figure 3)."""

    def __init__(self, cin: int, cout: int, hidden: int, row: Row) -> None:
        super().__init__()
        kernel, stride = row.kernel, row.stride
        body: list[nn.Module] = [GhostModule(cin, hidden, "relu")]
        if stride > 1:
            body.append(ConvBnAct(hidden, hidden, kernel, stride, groups=hidden, act="none"))
        if row.excite:
            squeeze = round_channels(hidden / 4, DIVISOR)
            body.append(SqueezeExcite(hidden, squeeze, gate="hsigmoid"))
        self.body = nn.Sequential(*body, GhostModule(hidden, cout, "none"))
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or cin != cout:
            self.shortcut = nn.Sequential(
                ConvBnAct(cin, cin, kernel, stride, groups=cin, act="none"), ConvBnAct(cin, cout, 1, act="none")
            )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x) + self.shortcut(x)
        return y


def ghostnet(
    *, alpha: float = 1.0, classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """GhostNet: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``alpha`` (as in the paper) multiplies every width but the last (1280): 0.5, 1.0, 1.3 there. Rounding,
    the hard sigmoid and the shortcut are those of the authors' code (huawei-noah/Efficient-AI-Backbones).
    """
    cin = round_channels(STEM * alpha, DIVISOR)
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2), cin, 2)]
    for row in ROWS:
        cout, hidden = round_channels(row.channels * alpha, DIVISOR), round_channels(row.hidden * alpha, DIVISOR)
        layers.append((GhostBottleneck(cin, cout, hidden, row), cout, row.stride))
        cin = cout
    if features_only:
        return StagedNet(layers, None)
    last = round_channels(LAST * alpha, DIVISOR)
    head = nn.Sequential(
        ConvBnAct(cin, last, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(last, HEAD),
        nn.ReLU(),
        nn.Linear(HEAD, classes),
    )
    return StagedNet(layers, head)
