"""ResNet-50; https://arxiv.org/abs/1512.03385"""

from __future__ import annotations

from torch import Tensor, nn

from mbdeploy.nets.blocks import ConvBnAct, Layer, StagedNet, choose, make_classifier

# Table 1, 50-layer: bottleneck channels, blocks, stride of the first block of conv2_x to conv5_x.
STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
STEM, EXPANSION = 64, 4
# Which convolution of a bottleneck strides: the paper's first 1x1, or the 3x3 that most published
# weights use ("v1.5", 6 % more multiply-adds).
STRIDES_IN_3X3 = {"v1": False, "v1.5": True}


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut that is projected where the shape changes (figure 5, right)."""

    def __init__(self, cin: int, hidden: int, stride: int, *, stride_in_3x3: bool) -> None:
        super().__init__()
        cout = hidden * EXPANSION
        first, second = (1, stride) if stride_in_3x3 else (stride, 1)
        self.body = nn.Sequential(
            ConvBnAct(cin, hidden, 1, first),
            ConvBnAct(hidden, hidden, 3, second),
            ConvBnAct(hidden, cout, 1, act="none"),
        )
        projected = stride > 1 or cin != cout
        self.shortcut = ConvBnAct(cin, cout, 1, stride, act="none") if projected else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.shortcut(x) + self.body(x))
        return y


def resnet50(
    *, variant: str = "v1", classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """ResNet-50: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``variant``: ``v1`` (the paper) or ``v1.5`` (the 3x3 convolution strides, not the 1x1 before it).
    """
    stride_in_3x3 = choose("resnet50 variant", variant, STRIDES_IN_3X3)
    cin = STEM
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 7, 2), cin, 2), (nn.MaxPool2d(3, 2, 1), cin, 2)]
    for hidden, blocks, stride in STAGES:
        for index in range(blocks):
            step = stride if index == 0 else 1
            layers.append((Bottleneck(cin, hidden, step, stride_in_3x3=stride_in_3x3), hidden * EXPANSION, step))
            cin = hidden * EXPANSION
    return StagedNet(layers, None if features_only else make_classifier(cin, classes))
