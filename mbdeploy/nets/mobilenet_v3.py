"""MobileNetV3 large and small; https://arxiv.org/abs/1905.02244"""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from mbdeploy.nets.blocks import (
    ConvBnAct,
    InvertedResidual,
    Layer,
    SqueezeExcite,
    StagedNet,
    choose,
    make_activation,
    round_channels,
)


class Row(NamedTuple):
    """One bneck of the paper's tables: kernel, expanded channels, channels, SE, activation, stride."""

    kernel: int
    hidden: int
    channels: int
    excite: bool
    act: str
    stride: int


class Variant(NamedTuple):
    """Bnecks, then the last convolution's channels and those of the layer after the pooling."""

    rows: tuple[Row, ...]
    last: int
    pooled: int


RE, HS = "relu", "hswish"
STEM = 16
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.25)  # table 9

VARIANTS = {
    "large": Variant(  # table 1
        (
            Row(3, 16, 16, False, RE, 1),
            Row(3, 64, 24, False, RE, 2),
            Row(3, 72, 24, False, RE, 1),
            Row(5, 72, 40, True, RE, 2),
            Row(5, 120, 40, True, RE, 1),
            Row(5, 120, 40, True, RE, 1),
            Row(3, 240, 80, False, HS, 2),
            Row(3, 200, 80, False, HS, 1),
            Row(3, 184, 80, False, HS, 1),
            Row(3, 184, 80, False, HS, 1),
            Row(3, 480, 112, True, HS, 1),
            Row(3, 672, 112, True, HS, 1),
            Row(5, 672, 160, True, HS, 2),
            Row(5, 960, 160, True, HS, 1),
            Row(5, 960, 160, True, HS, 1),
        ),
        960,
        1280,
    ),
    "small": Variant(  # table 2
        (
            Row(3, 16, 16, True, RE, 2),
            Row(3, 72, 24, False, RE, 2),
            Row(3, 88, 24, False, RE, 1),
            Row(5, 96, 40, True, HS, 2),
            Row(5, 240, 40, True, HS, 1),
            Row(5, 240, 40, True, HS, 1),
            Row(5, 120, 48, True, HS, 1),
            Row(5, 144, 48, True, HS, 1),
            Row(5, 288, 96, True, HS, 2),
            Row(5, 576, 96, True, HS, 1),
            Row(5, 576, 96, True, HS, 1),
        ),
        576,
        1024,
    ),
}


def mobilenet_v3(
    *,
    variant: str = "large",
    alpha: float = 1.0,
    classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
) -> nn.Module:
    """MobileNetV3: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``variant``: ``large`` or ``small``. ``alpha`` multiplies every width, rounded to a multiple of
    8; the layer after the pooling (1280 or 1024) does not shrink, as in the authors' code (TensorFlow's
    slim/nets/mobilenet), which keeps it above 1, too: there it grows here, as table 9 has it for small.
    """
    table = choose("mobilenet_v3 variant", variant, VARIANTS)
    cin, full = round_channels(STEM * alpha), STEM
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2, act=HS), cin, 2)]
    for row in table.rows:
        # The table's expanded width is a ratio to the rounded input, as in the authors' code.
        cout, hidden = round_channels(row.channels * alpha), round_channels(cin * row.hidden / full)
        excite = SqueezeExcite(hidden, round_channels(hidden / 4), gate="hsigmoid") if row.excite else None
        block = InvertedResidual(cin, cout, hidden, row.kernel, row.stride, act=row.act, excite=excite)
        layers.append((block, cout, row.stride))
        cin, full = cout, row.channels
    if features_only:
        return StagedNet(layers, None)
    last, pooled = round_channels(table.last * alpha), round_channels(table.pooled * max(1.0, alpha))
    head = nn.Sequential(
        ConvBnAct(cin, last, 1, act=HS),
        nn.AdaptiveAvgPool2d(1),  # before the widest layer: the shortened last stage, section 5.1
        nn.Flatten(),
        nn.Linear(last, pooled),
        make_activation(HS, pooled),
        nn.Linear(pooled, classes),
    )
    return StagedNet(layers, head)
