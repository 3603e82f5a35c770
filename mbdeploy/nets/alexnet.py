"""AlexNet; https://papers.nips.cc/paper/4824 ("ImageNet Classification with Deep CNNs", 2012)"""

from __future__ import annotations

from torch import nn

from mbdeploy.nets.blocks import Layer, StagedNet, make_dense_head

# Section 3.5: channels, kernel, stride, padding, groups (the two GPUs) of the five convolutions,
# and whether overlapping max pooling follows.
CONVS = (
    (96, 11, 4, 2, 1, True),
    (256, 5, 1, 2, 2, True),
    (384, 3, 1, 1, 1, False),
    (384, 3, 1, 1, 2, False),
    (256, 3, 1, 1, 2, True),
)
HIDDEN = 4096
SIZE = 6  # pixels a side before the fully connected layers, for an input of 224


def alexnet(*, classes: int = 1000, in_channels: int = 3, features_only: bool = False) -> nn.Module:
    """AlexNet: logits (N, classes) of 224 x 224 pixels, or maps at strides 4, 8, 16, 32.

    Local response normalisation is left out: it has no weights, gained 1.4 % in the paper, nothing
    since, and no integer runtime has it.
    """
    layers: list[Layer] = []
    cin = in_channels
    for cout, kernel, stride, padding, groups, pooled in CONVS:
        conv = nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups), nn.ReLU())
        layers.append((conv, cout, stride))
        if pooled:
            layers.append((nn.MaxPool2d(3, 2), cout, 2))
        cin = cout
    head = None if features_only else make_dense_head(cin * SIZE * SIZE, HIDDEN, classes)
    return StagedNet(layers, head)
