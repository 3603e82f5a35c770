"""SqueezeNext; https://arxiv.org/abs/1803.10615, prototxts in https://github.com/amirgholami/SqueezeNext"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from mbdeploy.nets.blocks import ConvBnAct, Layer, StagedNet, choose


class Variant(NamedTuple):
    """Width multiplier, kernel of the stem, blocks per section, and whether resampling comes first."""

    width: int
    stem: int
    blocks: tuple[int, int, int, int]
    resample_first: bool


# v5 moves blocks from the early sections, which use a device badly, to the third (paper, figure 9).
VARIANTS = {
    "1.0-SqNxt-23": Variant(1, 7, (6, 6, 8, 1), False),
    "1.0-SqNxt-23v5": Variant(1, 5, (2, 4, 14, 1), True),
    "2.0-SqNxt-23": Variant(2, 7, (6, 6, 8, 1), False),
    "2.0-SqNxt-23v5": Variant(2, 5, (2, 4, 14, 1), True),
}
STEM, HEAD = 64, 128  # the width multiplier leaves them, as in the prototxts
SECTIONS = ((32, 1), (64, 2), (128, 2), (256, 2))  # channels, stride of the first block


class SqNxtBlock(nn.Module):
    """Two-stage bottleneck, 3x1 and 1x3 in turn, expansion, shortcut (paper, figure 1).

    ``flip`` swaps the 3x1 and the 1x3, as every second block of the prototxts does; ``resampled`` projects
    the shortcut, as every section's first block does there (at width 2 even where no shape changes).
    """

    def __init__(self, cin: int, cout: int, stride: int, *, flip: bool, resampled: bool, resample_first: bool) -> None:
        super().__init__()
        tall, wide = (3, 1), (1, 3)
        self.resample = ConvBnAct(cin, cout, 1, stride) if resampled and resample_first else nn.Identity()
        self.shortcut = ConvBnAct(cin, cout, 1, stride) if resampled and not resample_first else nn.Identity()
        if resampled and resample_first:
            cin, stride = cout, 1
        self.body = nn.Sequential(
            ConvBnAct(cin, cout // 2, 1, stride),
            ConvBnAct(cout // 2, cout // 4, 1),
            ConvBnAct(cout // 4, cout // 2, wide if flip else tall),
            ConvBnAct(cout // 2, cout // 2, tall if flip else wide),
            ConvBnAct(cout // 2, cout, 1),
        )
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.resample(x)
        y: Tensor = self.act(self.shortcut(x) + self.body(x))
        return y


def squeezenext(
    *, variant: str = "1.0-SqNxt-23", classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """SqueezeNext: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``variant`` is a row of ``VARIANTS``. Made for 227 pixels: the stem is not padded.
    """
    table = choose("squeezenext variant", variant, VARIANTS)
    stem = nn.Sequential(nn.Conv2d(in_channels, STEM, table.stem, 2, bias=False), nn.BatchNorm2d(STEM), nn.ReLU())
    layers: list[Layer] = [(stem, STEM, 2), (nn.MaxPool2d(3, 2, ceil_mode=True), STEM, 2)]
    cin = STEM
    for (channels, stride), repeats in zip(SECTIONS, table.blocks, strict=True):
        cout = channels * table.width
        for index in range(repeats):
            step = stride if index == 0 else 1
            first, flip = index == 0, index % 2 == 1
            block = SqNxtBlock(cin, cout, step, flip=flip, resampled=first, resample_first=table.resample_first)
            layers.append((block, cout, step))
            cin = cout
    head = nn.Sequential(
        ConvBnAct(cin, HEAD, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(HEAD, classes, bias=False)
    )
    return StagedNet(layers, None if features_only else head)
