"""The blocks that networks share: convolution with batch norm, inverted residual, squeeze-and-excite.

The networks are for deployment: dropout and stochastic depth, which do nothing in evaluation, are
left out. Every block exports with a dynamic batch: no shape of the batch axis is ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from torch import Tensor, nn
from torch.nn import functional as F

from mbdeploy.errors import CardError

V = TypeVar("V")

# One layer of a network's table as it is built: the module, the channels it gives, its stride.
Layer = tuple[nn.Module, int, int]

ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "relu": lambda channels: nn.ReLU(),
    "relu6": lambda channels: nn.ReLU6(),
    "prelu": nn.PReLU,
    "swish": lambda channels: nn.SiLU(),
    "hswish": lambda channels: nn.Hardswish(),
    "sigmoid": lambda channels: nn.Sigmoid(),
    "hsigmoid": lambda channels: nn.Hardsigmoid(),
}


class StagedNet(nn.Module):
    """A network cut into stages where it strides, with a head, or with every stage's map as output.

    Rules: 1. a stage ends before each layer that strides, and at the last layer. 2. Without a head
    the forward pass returns a tuple: the last map of each stage, finest first. 3. ``strides`` and
    ``channels`` say, in the same order, by how much each map is smaller than the input and how many
    channels it has.
    """

    def __init__(self, layers: Sequence[Layer], head: nn.Module | None) -> None:
        super().__init__()
        stages: list[list[nn.Module]] = []
        self.strides: tuple[int, ...] = ()
        self.channels: tuple[int, ...] = ()
        for module, channels, stride in layers:
            if not stages or stride > 1:  # 1.
                stages.append([])
                self.strides += ((self.strides[-1] if self.strides else 1) * stride,)
                self.channels += (channels,)
            stages[-1].append(module)
            self.channels = (*self.channels[:-1], channels)
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.head = head

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        maps: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        if self.head is None:  # 2.
            return tuple(maps)
        logits: Tensor = self.head(x)
        return logits


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does: the output has ceil(input / stride) pixels.

    The padding follows from the height and width of the input, which are static, so an exported
    graph holds it as constants: in the Conv where it is symmetric, else in one Pad before it.
    """

    def forward(self, x: Tensor) -> Tensor:
        top, bottom = same_padding(int(x.shape[2]), self.kernel_size[0], self.stride[0], self.dilation[0])
        left, right = same_padding(int(x.shape[3]), self.kernel_size[1], self.stride[1], self.dilation[1])
        if top == bottom and left == right:
            padding = (top, left)
        else:
            x = F.pad(x, (left, right, top, bottom))
            padding = (0, 0)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class ConvBnAct(nn.Module):
    """Convolution without bias, batch norm, activation; padded to keep the size at stride 1.

    ``padding`` None means kernel // 2 on every side (times the dilation), ``same`` TensorFlow's SAME.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int | tuple[int, int] = 3,
        stride: int = 1,
        *,
        groups: int = 1,
        dilation: int = 1,
        act: str = "relu",
        same: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (0, 0) if same else (sides[0] // 2 * dilation, sides[1] // 2 * dilation)
        conv = SameConv2d if same else nn.Conv2d
        self.conv = conv(cin, cout, sides, stride, padding, dilation, groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, eps)
        self.act = make_activation(act, cout)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class SqueezeExcite(nn.Module):
    """Channel weights from the pooled map: two 1x1 convolutions, ``act`` between, ``gate`` at the end."""

    def __init__(self, channels: int, squeeze: int, *, act: str = "relu", gate: str = "sigmoid") -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeeze, 1)
        self.act = make_activation(act, squeeze)
        self.expand = nn.Conv2d(squeeze, channels, 1)
        self.gate = make_activation(gate, channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))
        return y


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, squeeze-and-excite if given, project 1x1 linear; https://arxiv.org/abs/1801.04381

    Rules: 1. no expansion when ``hidden`` equals ``cin``. 2. The input is added when the stride is 1
    and the channels are equal.
    """

    def __init__(
        self,
        cin: int,
        cout: int,
        hidden: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        act: str = "relu6",
        excite: nn.Module | None = None,
        same: bool = False,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.expand = ConvBnAct(cin, hidden, 1, act=act, eps=eps) if hidden != cin else nn.Identity()  # 1.
        self.depthwise = ConvBnAct(hidden, hidden, kernel, stride, groups=hidden, act=act, same=same, eps=eps)
        self.excite = excite if excite is not None else nn.Identity()
        self.project = ConvBnAct(hidden, cout, 1, act="none", eps=eps)
        self.residual = stride == 1 and cin == cout  # 2.

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.excite(self.depthwise(self.expand(x))))
        return x + y if self.residual else y


class ChannelShuffle(nn.Module):
    """Transpose the groups with the channels inside them; https://arxiv.org/abs/1707.01083 figure 1."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        y = x.reshape(-1, self.groups, channels // self.groups, height, width)
        return y.transpose(1, 2).reshape(-1, channels, height, width)


def make_activation(name: str, channels: int) -> nn.Module:
    """The activation of this name; ``channels`` matters to those that learn (PReLU)."""
    return choose("activation", name, ACTIVATIONS)(channels)


def make_classifier(channels: int, classes: int) -> nn.Sequential:
    """Global average pooling and one linear layer: (N, C, H, W) to (N, classes)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def make_dense_head(inputs: int, hidden: int, classes: int) -> nn.Sequential:
    """The two wide linear layers that networks ended in before global pooling: (N, C, H, W) to (N, classes)."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def choose(what: str, key: str, table: Mapping[str, V]) -> V:
    """The table's row for this key; CardError names ``what`` and lists the keys where there is none."""
    if key not in table:
        raise CardError(
            where=what,
            expected=f"one of {', '.join(table)}",
            found=repr(key),
            todo="correct the card's [args]",
        )
    return table[key]


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor`` (a half goes up), at least one, never below 90 % of the wish."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Pixels before and after one axis so that ceil(size / stride) remain; the odd one goes after."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2
