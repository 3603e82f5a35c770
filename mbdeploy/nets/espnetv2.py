"""ESPNetv2 for classification: depthwise dilated pyramids (EESP); https://arxiv.org/abs/1811.11431

Built as the authors' code (https://github.com/sacmehta/ESPNetv2, imagenet/Model.py) builds it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mbdeploy.nets.blocks import ConvBnAct, choose, make_classifier

BRANCHES = 4  # K
STEM = 32
# Per level of strides 4, 8, 16, 32: EESP modules after the one that strides, and the largest
# receptive field (pixels) of the strided module and of the others; table 1.
LEVELS = ((0, 13, 11), (3, 11, 9), (7, 9, 7), (3, 7, 5))
# Channels of the last convolution by width multiplier.
HEAD = {"0.5": 1024, "1.0": 1024, "1.25": 1024, "1.5": 1024, "2.0": 1280}
ALPHAS = tuple(map(float, HEAD))


class EESP(nn.Module):
    """Grouped 1x1, four depthwise dilated 3x3 whose sums are taken in turn, grouped 1x1 (figure 1 c)."""

    def __init__(self, cin: int, cout: int, stride: int, field: int) -> None:
        super().__init__()
        width = cout // BRANCHES
        # Kernels 3, 5, 7, 9 by dilation; one that reaches beyond ``field`` falls back to 3.
        fields = sorted(size if size <= field else 3 for size in range(3, 3 + 2 * BRANCHES, 2))
        self.reduce = ConvBnAct(cin, width, 1, groups=BRANCHES, act="prelu")
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride, rate, dilation=rate, groups=width, bias=False)
            for rate in ((size - 1) // 2 for size in fields)
        )
        self.norm = nn.Sequential(nn.BatchNorm2d(cout), nn.PReLU(cout))
        self.expand = ConvBnAct(cout, cout, 1, groups=BRANCHES, act="none")

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        merged: list[Tensor] = []
        for branch in self.branches:
            y = branch(reduced)
            merged.append(merged[-1] + y if merged else y)
        z: Tensor = self.expand(self.norm(torch.cat(merged, dim=1)))
        return z


class ResidualEESP(nn.Module):
    """EESP with the input added before the activation."""

    def __init__(self, channels: int, field: int) -> None:
        super().__init__()
        self.body = EESP(channels, channels, 1, field)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(x + self.body(x))
        return y


class StridedEESP(nn.Module):
    """Average pooling beside a strided EESP, plus the shrunken image if ``reinforced`` (figure 2 b)."""

    def __init__(self, cin: int, cout: int, field: int, image_channels: int, *, reinforced: bool) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(3, 2, 1)
        self.body = EESP(cin, cout - cin, 2, field)
        self.reinforce: nn.Module | None = None
        if reinforced:
            self.reinforce = nn.Sequential(
                ConvBnAct(image_channels, image_channels, 3, act="prelu"),
                ConvBnAct(image_channels, cout, 1, act="none"),
            )
        self.act = nn.PReLU(cout)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        y = torch.cat([self.pool(x), self.body(x)], dim=1)
        if self.reinforce is not None:
            y = y + self.reinforce(image)
        z: Tensor = self.act(y)
        return z


class ESPNetV2(nn.Module):
    """Stem and four levels; the image, shrunken with the maps, is added to all but the last level."""

    def __init__(self, in_channels: int, base: int, head_channels: int, classes: int | None) -> None:
        super().__init__()
        cin = min(base, STEM)
        widths = tuple(base * 2**level for level in range(1, 1 + len(LEVELS)))
        self.strides = (2, 4, 8, 16, 32)
        self.channels = (cin, *widths)
        self.stem = ConvBnAct(in_channels, cin, 3, 2, act="prelu")
        self.shrink = nn.AvgPool2d(3, 2, 1)
        self.downs, self.levels = nn.ModuleList(), nn.ModuleList()
        for cout, (repeats, strided_field, field) in zip(widths, LEVELS, strict=True):
            reinforced = cout != widths[-1]
            self.downs.append(StridedEESP(cin, cout, strided_field, in_channels, reinforced=reinforced))
            self.levels.append(nn.Sequential(*(ResidualEESP(cout, field) for _ in range(repeats))))
            cin = cout
        self.head: nn.Module | None = None
        if classes is not None:
            self.head = nn.Sequential(
                ConvBnAct(cin, cin, 3, groups=cin, act="prelu"),
                ConvBnAct(cin, head_channels, 1, groups=BRANCHES, act="prelu"),
                make_classifier(head_channels, classes),
            )

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, ...]:
        maps = [self.stem(image)]
        image = self.shrink(image)
        for down, level in zip(self.downs, self.levels, strict=True):
            image = self.shrink(image)
            maps.append(level(down(maps[-1], image)))
        if self.head is None:
            return tuple(maps)
        logits: Tensor = self.head(maps[-1])
        return logits


def espnetv2(
    *, alpha: float = 1.0, classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """ESPNetv2: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``alpha`` (the paper calls it s): 0.5, 1.0, 1.25, 1.5 or 2.0; it multiplies every width, but the stem
    has at most 32 channels.
    """
    head = choose("espnetv2 alpha", str(float(alpha)), HEAD)
    base = -(-int(STEM * alpha) // BRANCHES) * BRANCHES
    return ESPNetV2(in_channels, base, head, None if features_only else classes)
