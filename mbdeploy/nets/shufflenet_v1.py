"""ShuffleNet v1: pointwise group convolution and channel shuffle; https://arxiv.org/abs/1707.01083"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import ChannelShuffle, ConvBnAct, Layer, StagedNet, choose, make_classifier

# Paper, table 1: output channels of stage 2 by number of groups; each later stage doubles them.
CHANNELS = {"1": 144, "2": 200, "3": 240, "4": 272, "8": 384}
REPEATS = (4, 8, 4)  # units of stages 2, 3, 4, the one with stride 2 included
# The paper scales every width; the authors' code (megvii-model/ShuffleNet-Series) keeps 24 at 1.5, and
# only 12, not 6, gives the paper's multiply-adds at 0.25.
STEM = {"0.25": 12, "0.5": 12, "1.0": 24, "1.5": 24, "2.0": 48}
ALPHAS = tuple(map(float, STEM))


class ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1 (figure 2); stride 2 concatenates a pooled input."""

    def __init__(self, cin: int, cout: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        hidden, added = cout // 4, cout - cin if stride == 2 else cout
        self.reduce = ConvBnAct(cin, hidden, 1, groups=first_groups)
        self.shuffle = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = ConvBnAct(hidden, hidden, 3, stride, groups=hidden, act="none")
        self.expand = ConvBnAct(hidden, added, 1, groups=groups, act="none")
        self.pool = nn.AvgPool2d(3, 2, 1) if stride == 2 else None
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(self.shuffle(self.reduce(x))))
        if self.pool is None:
            added: Tensor = self.act(x + y)
            return added
        return torch.cat([self.pool(x), self.act(y)], dim=1)


def shufflenet_v1(
    *,
    groups: int = 3,
    alpha: float = 1.0,
    classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
) -> nn.Module:
    """ShuffleNet v1: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``groups``: 1, 2, 3, 4 or 8. ``alpha`` (the paper: scale factor s): 0.25, 0.5, 1.0, 1.5 or 2.0. Widths
    are rounded so that groups divide a unit's bottleneck, a quarter of its output; at alpha 1 they are the paper's.
    """
    base = choose("shufflenet_v1 groups", str(groups), CHANNELS) * alpha
    stem = choose("shufflenet_v1 alpha", str(float(alpha)), STEM)
    cout = int(base / (4 * groups) + 0.5) * 4 * groups
    cin = -(-stem // groups) * groups
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2), cin, 2), (nn.MaxPool2d(3, 2, 1), cin, 2)]
    for stage, repeats in enumerate(REPEATS):
        for index in range(repeats):
            # Section 3.2: no groups in the very first pointwise convolution, its input is too thin.
            first_groups = 1 if stage == index == 0 else groups
            stride = 2 if index == 0 else 1
            layers.append((ShuffleUnit(cin, cout, stride, groups, first_groups), cout, stride))
            cin = cout
        cout *= 2
    return StagedNet(layers, None if features_only else make_classifier(cin, classes))
