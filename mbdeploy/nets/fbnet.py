"""FBNet A, B, C, found by differentiable search; https://arxiv.org/abs/1812.03443 (figure 4)."""

from __future__ import annotations

from torch import Tensor, nn

from mbdeploy.nets.blocks import ChannelShuffle, ConvBnAct, Layer, StagedNet, choose, make_classifier

SKIP = (0, 0, 0)  # the block that passes its input on

# Per block of stages 1 to 7, as figure 4 and the authors' code (facebookresearch/mobile-vision) have
# them: kernel, expansion, groups of its 1x1 convolutions.
Block = tuple[int, int, int]
BLOCKS: dict[str, tuple[Block, ...]] = {
    "a": (
        *(SKIP,),
        *((3, 3, 1), (3, 1, 1), SKIP, SKIP),
        *((5, 6, 1), (3, 3, 1), (5, 1, 1), (3, 3, 1)),
        *((5, 6, 1), (5, 3, 1), (5, 1, 2), (5, 6, 1)),
        *((3, 6, 1), (5, 1, 2), (5, 3, 1), (3, 1, 2)),
        *((5, 6, 1), (5, 6, 1), (5, 3, 1), (5, 6, 1)),
        *((5, 6, 1),),
    ),
    "b": (
        *((3, 1, 1),),
        *((3, 6, 1), (5, 1, 1), (3, 1, 1), (3, 1, 1)),
        *((5, 6, 1), (5, 3, 1), (3, 6, 1), (5, 6, 1)),
        *((5, 6, 1), (5, 6, 1), SKIP, (5, 3, 1)),
        *((5, 6, 1), (3, 1, 1), (5, 1, 1), (5, 3, 1)),
        *((5, 6, 1), (5, 1, 1), (5, 6, 1), (5, 6, 1)),
        *((3, 6, 1),),
    ),
    "c": (
        *((3, 1, 1),),
        *((3, 6, 1), SKIP, (3, 1, 1), (3, 1, 1)),
        *((5, 6, 1), (5, 3, 1), (5, 6, 1), (3, 6, 1)),
        *((5, 6, 1), (5, 3, 1), (5, 6, 1), (5, 6, 1)),
        *((5, 6, 1), (5, 6, 1), (5, 6, 1), (5, 3, 1)),
        *((5, 6, 1), (5, 6, 1), (5, 6, 1), (5, 6, 1)),
        *((3, 6, 1),),
    ),
}
# Table 1: channels, blocks, stride of the first block.
STAGES = ((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1))
STEM = 16
HEAD = {"a": 1504, "b": 1984, "c": 1984}


class FBNetBlock(nn.Module):
    """1x1, depthwise, 1x1 linear, with groups and a channel shuffle if asked for (figure 3).

    Figure 3 draws the first 1x1 always; the authors' code leaves it out at expansion 1, and is followed.
    """

    def __init__(self, cin: int, cout: int, block: Block, stride: int) -> None:
        super().__init__()
        kernel, expansion, groups = block
        hidden = cin * expansion
        self.expand = ConvBnAct(cin, hidden, 1, groups=groups) if expansion > 1 else nn.Identity()
        self.shuffle = ChannelShuffle(groups) if groups > 1 else nn.Identity()
        self.depthwise = ConvBnAct(hidden, hidden, kernel, stride, groups=hidden)
        self.project = ConvBnAct(hidden, cout, 1, groups=groups, act="none")
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.shuffle(self.expand(x))))
        return x + y if self.residual else y


def fbnet(
    *,
    variant: str = "c",
    classes: int = 1000,
    in_channels: int = 3,
    features_only: bool = False,
) -> nn.Module:
    """FBNet: logits (N, classes), or maps at strides 2, 4, 8, 16, 32 with ``features_only``.

    ``variant``: ``a``, ``b`` or ``c``.
    """
    blocks = iter(choose("fbnet variant", variant, BLOCKS))
    cin = STEM
    layers: list[Layer] = [(ConvBnAct(in_channels, cin, 3, 2), cin, 2)]
    for cout, count, stride in STAGES:
        for index in range(count):
            block, step = next(blocks), stride if index == 0 else 1
            if block != SKIP:
                layers.append((FBNetBlock(cin, cout, block, step), cout, step))
            cin = cout
    if features_only:
        return StagedNet(layers, None)
    head = HEAD[variant]
    return StagedNet(layers, nn.Sequential(ConvBnAct(cin, head, 1), make_classifier(head, classes)))
