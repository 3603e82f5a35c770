"""ESPNet for segmentation: spatial pyramids of dilated convolutions; https://arxiv.org/abs/1803.06815

Built as the authors' code (https://github.com/sacmehta/ESPNet, train/Model.py) builds it where the paper
leaves a choice; their test/Model.py joins the stem to the decoder without the image, 540 weights less.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import ConvBnAct

EPS = 1e-3
DILATIONS = (1, 2, 4, 8, 16)  # 2^(k-1) for K = 5 parallel branches
LEVELS = (16, 64, 128)  # channels at strides 2, 4, 8 (figure 4)


class NormAct(nn.Sequential):
    """Batch norm and PReLU of maps that were concatenated or added."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels, EPS), nn.PReLU(channels))


class ESP(nn.Module):
    """Reduce, split, transform, merge (figure 1): a convolution to d = cout / 5 channels, then five
    dilated 3x3 ones, whose sums are taken one after the other (hierarchical feature fusion).

    ``kernel`` and ``stride`` are those of the reducing convolution: 1 and 1, or 3 and 2.
    """

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1, *, residual: bool = False) -> None:
        super().__init__()
        width = cout // len(DILATIONS)
        first = cout - width * (len(DILATIONS) - 1)  # takes what the division leaves over
        self.reduce = nn.Conv2d(cin, width, kernel, stride, kernel // 2, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width if index else first, 3, padding=rate, dilation=rate, bias=False)
            for index, rate in enumerate(DILATIONS)
        )
        self.residual = residual
        self.norm = NormAct(cout)

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        merged = [first, others[0]]
        for branch in others[1:]:
            merged.append(merged[-1] + branch)
        y = torch.cat(merged, dim=1)
        z: Tensor = self.norm(x + y if self.residual else y)
        return z


class ESPEncoder(nn.Module):
    """Three levels, each fed with its own input, its output and the shrunken image (figure 4, ESPNet-C)."""

    def __init__(self, in_channels: int, p: int, q: int) -> None:
        super().__init__()
        c1, c2, c3 = LEVELS
        self.channels = (c1 + in_channels, 2 * c2 + in_channels, 2 * c3)
        self.shrink = nn.AvgPool2d(3, 2, 1)
        self.stem = ConvBnAct(in_channels, c1, 3, 2, act="prelu", eps=EPS)
        self.norm1 = NormAct(self.channels[0])
        self.down2 = ESP(self.channels[0], c2, 3, 2)
        self.level2 = nn.Sequential(*(ESP(c2, c2, residual=True) for _ in range(p)))
        self.norm2 = NormAct(self.channels[1])
        self.down3 = ESP(self.channels[1], c3, 3, 2)
        self.level3 = nn.Sequential(*(ESP(c3, c3, residual=True) for _ in range(q)))
        self.norm3 = NormAct(self.channels[2])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = self.shrink(image)
        quarter = self.shrink(half)
        first = self.norm1(torch.cat([self.stem(image), half], dim=1))
        down = self.down2(first)
        second = self.norm2(torch.cat([self.level2(down), down, quarter], dim=1))
        down = self.down3(second)
        third = self.norm3(torch.cat([down, self.level3(down)], dim=1))
        return first, second, third


class ESPNet(nn.Module):
    """The encoder and its light decoder: the levels are projected to classes, joined and doubled in size."""

    def __init__(self, in_channels: int, classes: int, p: int, q: int) -> None:
        super().__init__()
        self.encoder = ESPEncoder(in_channels, p, q)
        c1, c2, c3 = self.encoder.channels
        self.project3 = ConvBnAct(c3, classes, 1, act="none", eps=EPS)
        self.up3 = _double(classes)
        self.project2 = nn.Conv2d(c2, classes, 1, bias=False)
        self.join2 = nn.Sequential(NormAct(2 * classes), ESP(2 * classes, classes))
        self.up2 = nn.Sequential(_double(classes), NormAct(classes))
        self.join1 = ConvBnAct(c1 + classes, classes, 3, act="prelu", eps=EPS)
        self.up1 = _double(classes)

    def forward(self, image: Tensor) -> Tensor:
        first, second, third = self.encoder(image)
        coarse = self.up3(self.project3(third))
        middle = self.up2(self.join2(torch.cat([self.project2(second), coarse], dim=1)))
        scores: Tensor = self.up1(self.join1(torch.cat([middle, first], dim=1)))
        return scores


class ESPFeatures(nn.Module):
    """The encoder's three maps as outputs, finest first; ``strides`` and ``channels`` describe them."""

    def __init__(self, in_channels: int, p: int, q: int) -> None:
        super().__init__()
        self.encoder = ESPEncoder(in_channels, p, q)
        self.strides = (2, 4, 8)
        self.channels = self.encoder.channels

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps: tuple[Tensor, Tensor, Tensor] = self.encoder(image)
        return maps


def espnet(
    *, p: int = 2, q: int = 8, classes: int = 20, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """ESPNet: scores (N, classes, H, W), or maps at strides 2, 4, 8 with ``features_only``.

    ``p`` and ``q`` are the paper's depth multipliers alpha2 and alpha3: how often the modules of
    levels 2 and 3 repeat (2 and 3, 5 or 8 in the paper). Height and width must be multiples of 8.
    """
    if features_only:
        return ESPFeatures(in_channels, p, q)
    return ESPNet(in_channels, classes, p, q)


def _double(channels: int) -> nn.Module:
    return nn.ConvTranspose2d(channels, channels, 2, 2, bias=False)
