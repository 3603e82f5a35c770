"""MnasNet-A1; https://arxiv.org/abs/1807.11626"""

from __future__ import annotations

from torch import nn

from mbdeploy.nets.blocks import ConvBnAct, InvertedResidual, Layer, SqueezeExcite, StagedNet, make_classifier

# Paper, figure 7 (a): repeats, kernel, stride, expansion, channels, squeeze-and-excite.
# The first row is its SepConv; stem 3x3, stride 2, 32.
BLOCKS = (
    (1, 3, 1, 1, 16, False),
    (2, 3, 2, 6, 24, False),
    (3, 5, 2, 3, 40, True),
    (4, 3, 2, 6, 80, False),
    (2, 3, 1, 6, 112, True),
    (3, 5, 2, 6, 160, True),
    (1, 3, 1, 6, 320, False),
)
# The paper's figure ends with a pooling after the 320 channels; the authors' code
# (tensorflow/tpu, models/official/mnasnet) has a 1x1 convolution of 1280 before it, and is followed.
STEM, HEAD = 32, 1280
EPS = 1e-3


def mnasnet_a1(*, classes: int = 1000, in_channels: int = 3, features_only: bool = False) -> nn.Module:
    """MnasNet-A1: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``."""
    layers: list[Layer] = [(ConvBnAct(in_channels, STEM, 3, 2, eps=EPS), STEM, 2)]
    cin = STEM
    for repeats, kernel, stride, expansion, cout, excited in BLOCKS:
        for index in range(repeats):
            hidden, step = cin * expansion, stride if index == 0 else 1
            excite = SqueezeExcite(hidden, cin // 4) if excited else None
            block = InvertedResidual(cin, cout, hidden, kernel, step, act="relu", excite=excite, eps=EPS)
            layers.append((block, cout, step))
            cin = cout
    if features_only:
        return StagedNet(layers, None)
    return StagedNet(layers, nn.Sequential(ConvBnAct(cin, HEAD, 1, eps=EPS), make_classifier(HEAD, classes)))
