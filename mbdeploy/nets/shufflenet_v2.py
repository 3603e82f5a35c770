"""ShuffleNet v2: channel split; https://arxiv.org/abs/1807.11164"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import ChannelShuffle, ConvBnAct, Layer, StagedNet, choose, make_classifier

# Paper, table 5: output channels of stages 2, 3, 4 and of conv5.
CHANNELS = {
    "0.5": (48, 96, 192, 1024),
    "1.0": (116, 232, 464, 1024),
    "1.5": (176, 352, 704, 1024),
    "2.0": (244, 488, 976, 2048),
}
ALPHAS = tuple(map(float, CHANNELS))
REPEATS = (4, 8, 4)  # units of stages 2, 3, 4, the one with stride 2 included
STEM = 24


class SplitUnit(nn.Module):
    """The basic unit, figure 3 (c): one half of the channels passes, the other is convolved."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.half = half
        self.body = nn.Sequential(
            ConvBnAct(half, half, 1), ConvBnAct(half, half, 3, groups=half, act="none"), ConvBnAct(half, half, 1)
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = torch.split(x, [self.half, self.half], dim=1)
        y: Tensor = self.shuffle(torch.cat([kept, self.body(changed)], dim=1))
        return y


class DownUnit(nn.Module):
    """The unit that strides, figure 3 (d): both branches see all channels.

    The paper leaves open how they share the output. The authors' code (megvii-model/ShuffleNet-Series),
    which gives the paper's multiply-adds, lets the shortcut keep its channels and the body add the rest.
    """

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        half = cout // 2
        self.shortcut = nn.Sequential(ConvBnAct(cin, cin, 3, 2, groups=cin, act="none"), ConvBnAct(cin, cin, 1))
        self.body = nn.Sequential(
            ConvBnAct(cin, half, 1),
            ConvBnAct(half, half, 3, 2, groups=half, act="none"),
            ConvBnAct(half, cout - cin, 1),
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shuffle(torch.cat([self.shortcut(x), self.body(x)], dim=1))
        return y


def shufflenet_v2(
    *, alpha: float = 1.0, classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """ShuffleNet v2: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``alpha`` is the width multiplier: 0.5, 1.0, 1.5 or 2.0 (the paper writes 0.5x to 2x).
    """
    *stages, head = choose("shufflenet_v2 alpha", str(float(alpha)), CHANNELS)
    cin = STEM
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2), cin, 2), (nn.MaxPool2d(3, 2, 1), cin, 2)]
    for cout, repeats in zip(stages, REPEATS, strict=True):
        layers.append((DownUnit(cin, cout), cout, 2))
        layers.extend((SplitUnit(cout), cout, 1) for _ in range(repeats - 1))
        cin = cout
    if features_only:
        return StagedNet(layers, None)
    return StagedNet(layers, nn.Sequential(ConvBnAct(cin, head, 1), make_classifier(head, classes)))
