"""MobileNetV2: inverted residuals and linear bottlenecks; https://arxiv.org/abs/1801.04381"""

from __future__ import annotations

from torch import nn

from mbdeploy.nets.blocks import (
    ConvBnAct,
    InvertedResidual,
    Layer,
    StagedNet,
    make_classifier,
    round_channels,
)

# Paper, table 2: expansion t, channels c, repeats n, stride s of the first repeat.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
STEM, HEAD = 32, 1280
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)  # those of the released weights


def mobilenet_v2(
    *,
    alpha: float = 1.0,
    classes: int = 1000,
    in_channels: int = 3,
    act: str = "relu6",
    features_only: bool = False,
) -> nn.Module:
    """MobileNetV2: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``alpha`` multiplies every width, rounded to a multiple of 8 as in the authors' code, which is followed
    where the paper says nothing (TensorFlow's slim/nets/mobilenet); the last width (1280) only grows.
    """
    cin = round_channels(STEM * alpha)
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2, act=act), cin, 2)]
    for expansion, channels, repeats, stride in BLOCKS:
        cout = round_channels(channels * alpha)
        for index in range(repeats):
            step = stride if index == 0 else 1
            layers.append((InvertedResidual(cin, cout, cin * expansion, 3, step, act=act), cout, step))
            cin = cout
    if features_only:
        return StagedNet(layers, None)
    head = round_channels(HEAD * max(1.0, alpha))
    return StagedNet(layers, nn.Sequential(ConvBnAct(cin, head, 1, act=act), make_classifier(head, classes)))
