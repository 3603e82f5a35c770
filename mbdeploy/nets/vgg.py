"""VGG16, configuration D; https://arxiv.org/abs/1409.1556"""

from __future__ import annotations

from torch import nn

from mbdeploy.nets.blocks import Layer, StagedNet, make_dense_head

# Table 1, column D: channels and 3x3 convolutions of each block; a 2x2 max pooling ends every block.
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
HIDDEN = 4096
SIZE = 7  # pixels a side before the fully connected layers, for an input of 224


def vgg16(*, classes: int = 1000, in_channels: int = 3, features_only: bool = False) -> nn.Module:
    """VGG16: logits (N, classes) of 224 x 224 pixels, or maps at strides 1, 2, 4, 8, 16, 32."""
    layers: list[Layer] = []
    cin = in_channels
    for cout, convs in BLOCKS:
        for _ in range(convs):
            layers.append((nn.Sequential(nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU()), cout, 1))
            cin = cout
        layers.append((nn.MaxPool2d(2, 2), cin, 2))
    head = None if features_only else make_dense_head(cin * SIZE * SIZE, HIDDEN, classes)
    return StagedNet(layers, head)
