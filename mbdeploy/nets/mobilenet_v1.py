"""MobileNetV1, and the same network with standard convolutions; https://arxiv.org/abs/1704.04861"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from mbdeploy.nets.blocks import ConvBnAct, Layer, StagedNet, make_classifier

# Paper, table 1: channels and stride of every depthwise-separable layer; before them 3x3, stride 2, 32.
# The table prints stride 2 for the last layer too, but its 7x7 output needs 1 (so does the code of the
# authors, which is followed: TensorFlow's slim/nets/mobilenet_v1.py).
STEM = 32
LAYERS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (512, 1),
    (1024, 2),
    (1024, 1),
)
SHALLOW = LAYERS[:6] + LAYERS[11:]  # section 4.1: without the five layers of 14 x 14 x 512
ALPHAS = (0.25, 0.5, 0.75, 1.0)


def mobilenet_v1(
    *,
    alpha: float = 1.0,
    classes: int = 1000,
    in_channels: int = 3,
    act: str = "relu6",
    shallow: bool = False,
    cifar: bool = False,
    features_only: bool = False,
) -> nn.Module:
    """MobileNetV1: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``alpha`` multiplies every width; the paper's resolution multiplier is the input's size (any
    size works). ``act``: the paper says ReLU (``relu``), its authors' code and so the released
    weights use ``relu6``. ``cifar``: for 32 x 32 pixels, stem at stride 1, maps at 1, 2, 4, 8, 16.
    """
    return _stack(_separable, alpha, classes, in_channels, act, shallow, cifar, features_only)


def conv_mobilenet(
    *,
    alpha: float = 1.0,
    classes: int = 1000,
    in_channels: int = 3,
    act: str = "relu6",
    features_only: bool = False,
) -> nn.Module:
    """MobileNetV1 with a standard 3x3 convolution for every separable one (the paper's table 4).

    Arguments and outputs as for ``mobilenet_v1``.
    """
    return _stack(_standard, alpha, classes, in_channels, act, False, False, features_only)


def _separable(cin: int, cout: int, stride: int, act: str) -> nn.Module:
    return nn.Sequential(ConvBnAct(cin, cin, 3, stride, groups=cin, act=act), ConvBnAct(cin, cout, 1, act=act))


def _standard(cin: int, cout: int, stride: int, act: str) -> nn.Module:
    return ConvBnAct(cin, cout, 3, stride, act=act)


def _stack(
    make_layer: Callable[[int, int, int, str], nn.Module],
    alpha: float,
    classes: int,
    in_channels: int,
    act: str,
    shallow: bool,
    cifar: bool,
    features_only: bool,
) -> nn.Module:
    cin, stride = _scale(STEM, alpha), 1 if cifar else 2
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, stride, act=act), cin, stride)]
    for channels, stride in SHALLOW if shallow else LAYERS:
        cout = _scale(channels, alpha)
        layers.append((make_layer(cin, cout, stride, act), cout, stride))
        cin = cout
    return StagedNet(layers, None if features_only else make_classifier(cin, classes))


def _scale(channels: int, alpha: float) -> int:
    return max(8, int(channels * alpha))
