"""Parameters and multiply-adds of every variant against the figure its paper prints.

One multiply-add is one MAC of a convolution or a linear layer. A count agrees with a printed figure
when it rounds or truncates to it. Papers count unlike things, so a figure says what it is ``of``:

- ``all``: every weight; every multiply-add;
- ``no batch norm``: weights without the scales and shifts of batch norm;
- ``convolutions``: multiply-adds without those of the classifier;
- ``with additions``: multiply-adds, and one addition for every output.

Where a figure cannot be met, ``ours`` is what we count, and ``why`` explains the difference.
"""

from __future__ import annotations

from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from mbdeploy.nets import build_net

ELEMENTWISE = (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.PReLU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid)
UNITS = {"M": Decimal(10**6), "B": Decimal(10**9)}


class Figure(NamedTuple):
    printed: str
    of: str = "all"
    ours: str = ""
    why: str = ""


class Row(NamedTuple):
    net: str
    args: dict[str, Any]
    size: int | tuple[int, int]
    params: Figure | None
    macs: Figure | None


class Counts(NamedTuple):
    """Counts of one image by what they are ``of``; ``by_kind``: (MACs, weights) of conv1x1, conv, linear."""

    params: dict[str, int]
    macs: dict[str, int]
    by_kind: dict[str, tuple[int, int]]


def paper(params: str, macs: str, *, params_of: str = "all", macs_of: str = "all") -> tuple[Figure, Figure]:
    return Figure(params, params_of), Figure(macs, macs_of)


V1, V2, V3 = "mobilenet_v1", "mobilenet_v2", "mobilenet_v3"
SHUFFLE, SHUFFLE2 = "shufflenet_v1", "shufflenet_v2"
NO_NORM = {"params_of": "no batch norm"}
CONVS = {"macs_of": "convolutions"}
LITE_WHY = "the README's counts exceed the convolutions by about three operations for every output"
ZOO_WHY = "the authors' model zoo (facebookresearch/mobile-vision) prints "

ROWS = (
    # https://arxiv.org/abs/1704.04861, tables 4 to 7
    Row(V1, {}, 224, *paper("4.2M", "569M")),
    Row(V1, {"alpha": 0.75}, 224, *paper("2.6M", "325M")),
    Row(V1, {"alpha": 0.5}, 224, *paper("1.3M", "149M")),
    Row(V1, {"alpha": 0.25}, 224, *paper("0.5M", "41M")),
    Row(V1, {}, 192, *paper("4.2M", "418M")),
    Row(V1, {}, 160, *paper("4.2M", "290M")),
    Row(V1, {}, 128, *paper("4.2M", "186M")),
    Row(V1, {"shallow": True}, 224, *paper("2.9M", "307M")),
    Row("conv_mobilenet", {}, 224, *paper("29.3M", "4866M", **CONVS)),
    # https://arxiv.org/abs/1801.04381, table 4
    Row(V2, {}, 224, *paper("3.4M", "300M", **NO_NORM)),
    Row(
        V2,
        {"alpha": 1.4},
        224,
        Figure("6.9M", "no batch norm", "6.06M", "the authors' table of released weights has 6.06"),
        Figure("585M", "all", "582M", "the authors' table of released weights has 582"),
    ),
    # the authors' table of released weights (tensorflow/models, research/slim/nets/mobilenet/README.md)
    Row(V2, {"alpha": 0.35}, 224, *paper("1.66M", "59M", **NO_NORM)),
    Row(V2, {"alpha": 0.5}, 224, *paper("1.95M", "97M", **NO_NORM)),
    Row(V2, {"alpha": 0.75}, 224, *paper("2.61M", "209M", **NO_NORM)),
    Row(V2, {"alpha": 1.0}, 96, *paper("3.47M", "56M", **NO_NORM)),
    Row(V2, {"alpha": 1.3}, 224, *paper("5.34M", "509M", **NO_NORM)),
    Row(V2, {"alpha": 1.4}, 224, *paper("6.06M", "582M", **NO_NORM)),
    # https://arxiv.org/abs/1905.02244, table 3
    Row(
        V3,
        {"variant": "large"},
        224,
        Figure("5.4M"),
        Figure("219M", "all", "217M", "the authors' table of released weights has 217"),
    ),
    Row(V3, {"variant": "large", "alpha": 0.75}, 224, *paper("4.0M", "155M")),
    Row(V3, {"variant": "small"}, 224, *paper("2.5M", "56M")),
    Row(
        V3,
        {"variant": "small", "alpha": 0.75},
        224,
        Figure("2.0M"),
        Figure("44M", "all", "43M", "43.4: 1.4 % less; rounding of the widths between paper and code"),
    ),
    # https://arxiv.org/abs/1602.07360, table 1; multiply-adds: https://arxiv.org/abs/1803.10615, table 3
    Row("squeezenet", {"version": "1.0"}, 227, *paper("1.248424M", "837M", macs_of="with additions")),
    # no paper: the figures that torchvision publishes with its weights
    Row("squeezenet", {"version": "1.0"}, 224, *paper("1.248424M", "0.82B")),
    Row("squeezenet", {"version": "1.1"}, 224, *paper("1.235496M", "0.35B")),
    # https://arxiv.org/abs/1803.10615, tables 1 to 3
    Row("squeezenext", {"variant": "1.0-SqNxt-23"}, 227, *paper("0.72M", "282M", macs_of="with additions")),
    Row("squeezenext", {"variant": "1.0-SqNxt-23v5"}, 227, None, Figure("228M", "with additions")),
    Row("squeezenext", {"variant": "2.0-SqNxt-23"}, 227, Figure("2.4M"), None),
    Row("squeezenext", {"variant": "2.0-SqNxt-23v5"}, 227, Figure("3.2M"), None),
    # https://arxiv.org/abs/1707.01083, table 1, which leaves the classifier out
    Row(SHUFFLE, {"groups": 1}, 224, None, Figure("143M", "convolutions")),
    Row(SHUFFLE, {"groups": 2}, 224, None, Figure("140M", "convolutions")),
    Row(SHUFFLE, {"groups": 3}, 224, None, Figure("137M", "convolutions")),
    Row(SHUFFLE, {"groups": 4}, 224, None, Figure("133M", "convolutions")),
    Row(SHUFFLE, {"groups": 8}, 224, None, Figure("137M", "convolutions")),
    # table 2
    Row(SHUFFLE, {"groups": 1, "scale": 0.25}, 224, None, Figure("13M")),
    Row(SHUFFLE, {"groups": 3, "scale": 0.25}, 224, None, Figure("13M")),
    # the authors' table (megvii-model/ShuffleNet-Series, ShuffleNetV1/README.md); multiply-adds at
    # 0.5, 1.5 and 2.0 with 3 groups are those of the paper's tables 2 and 5 too
    Row(SHUFFLE, {"groups": 3, "scale": 0.5}, 224, *paper("0.7M", "38M")),
    Row(SHUFFLE, {"groups": 8, "scale": 0.5}, 224, *paper("1.0M", "40M")),
    Row(SHUFFLE, {"groups": 3, "scale": 1.0}, 224, Figure("1.9M"), None),
    Row(SHUFFLE, {"groups": 8, "scale": 1.0}, 224, *paper("2.4M", "138M")),
    Row(SHUFFLE, {"groups": 3, "scale": 1.5}, 224, *paper("3.4M", "292M")),
    Row(SHUFFLE, {"groups": 8, "scale": 1.5}, 224, *paper("4.3M", "290M")),
    Row(SHUFFLE, {"groups": 3, "scale": 2.0}, 224, *paper("5.4M", "524M")),
    Row(SHUFFLE, {"groups": 8, "scale": 2.0}, 224, *paper("6.5M", "522M")),
    # https://arxiv.org/abs/1807.11164, table 8; parameters: the authors' table (same repository)
    Row(
        SHUFFLE2,
        {"scale": 0.5},
        224,
        Figure("1.4M"),
        Figure("41M", "all", "40M", "40.5 in the authors' code too"),
    ),
    Row(SHUFFLE2, {"scale": 1.0}, 224, *paper("2.3M", "146M")),
    Row(SHUFFLE2, {"scale": 1.5}, 224, *paper("3.5M", "299M")),
    Row(SHUFFLE2, {"scale": 2.0}, 224, *paper("7.4M", "591M")),
    # https://arxiv.org/abs/1803.06815, comparison with ENet
    Row(
        "espnet",
        {"p": 2, "q": 8},
        (512, 1024),
        Figure("0.364M", "all", "0.365M", "the authors' released code builds 365,109, as we do"),
        None,
    ),
    # https://arxiv.org/abs/1811.11431, table 4; digits: the authors' README (sacmehta/ESPNetv2, imagenet)
    Row("espnetv2", {"scale": 0.5}, 224, *paper("1.24M", "28.37M", **CONVS)),
    Row("espnetv2", {"scale": 1.0}, 224, *paper("1.67M", "85.72M", **CONVS)),
    Row("espnetv2", {"scale": 1.25}, 224, *paper("1.96M", "123.39M", **CONVS)),
    Row("espnetv2", {"scale": 1.5}, 224, *paper("2.31M", "168.6M", **CONVS)),
    Row("espnetv2", {"scale": 2.0}, 224, *paper("3.49M", "284.8M", **CONVS)),
    # https://arxiv.org/abs/1812.03443, table 3
    Row("fbnet", {"variant": "a"}, 224, Figure("4.3M"), Figure("249M", "all", "244M", ZOO_WHY + "244.5")),
    Row(
        "fbnet",
        {"variant": "b"},
        224,
        Figure("4.5M", "all", "4.8M", ZOO_WHY + "4.8"),
        Figure("295M", "all", "291M", ZOO_WHY + "291.1"),
    ),
    Row("fbnet", {"variant": "c"}, 224, Figure("5.5M"), Figure("375M", "all", "378M", ZOO_WHY + "378.2")),
    # https://arxiv.org/abs/1905.11946, table 2
    Row("efficientnet", {"variant": "b0"}, 224, *paper("5.3M", "0.39B")),
    Row(
        "efficientnet",
        {"variant": "b1"},
        240,
        Figure("7.8M"),
        Figure("0.70B", "all", "0.69B", "torchvision publishes 0.69 for this network at 240 pixels, too"),
    ),
    # tensorflow/tpu, models/official/efficientnet/lite/README.md
    Row("efficientnet", {"variant": "lite0"}, 224, Figure("4.7M"), Figure("407M", "all", "385M", LITE_WHY)),
    Row("efficientnet", {"variant": "lite1"}, 240, Figure("5.4M"), Figure("631M", "all", "600M", LITE_WHY)),
    Row("efficientnet", {"variant": "lite2"}, 260, Figure("6.1M"), Figure("899M", "all", "860M", LITE_WHY)),
    Row("efficientnet", {"variant": "lite3"}, 280, Figure("8.2M"), Figure("1.44B", "all", "1.38B", LITE_WHY)),
    Row("efficientnet", {"variant": "lite4"}, 300, Figure("13.0M"), Figure("2.64B", "all", "2.55B", LITE_WHY)),
    # https://arxiv.org/abs/1911.11907, table 8
    Row("ghostnet", {"width": 0.5}, 224, *paper("2.6M", "42M")),
    Row("ghostnet", {"width": 1.0}, 224, *paper("5.2M", "141M")),
    Row(
        "ghostnet",
        {"width": 1.3},
        224,
        Figure("7.3M"),
        Figure("226M", "all", "227M", "227.0 in the authors' PyTorch code too"),
    ),
    # https://arxiv.org/abs/1807.11626, table 1
    Row("mnasnet_a1", {}, 224, *paper("3.9M", "312M")),
    # https://papers.nips.cc/paper/4824; multiply-adds: https://arxiv.org/abs/1703.09039, table II
    Row("alexnet", {}, 224, *paper("60M", "724M")),
    # https://arxiv.org/abs/1409.1556, table 2; multiply-adds: https://arxiv.org/abs/1703.09039, table II
    Row("vgg16", {}, 224, *paper("138M", "15.5B")),
    # https://arxiv.org/abs/1409.4842, section 1; parameters: https://arxiv.org/abs/1703.09039, table II
    Row("googlenet", {}, 224, *paper("7M", "1.5B")),
    # https://arxiv.org/abs/1512.03385, table 1; parameters: https://arxiv.org/abs/1703.09039, table II
    Row("resnet50", {}, 224, *paper("25.5M", "3.8B")),
    # no paper: torchvision's figures
    Row("resnet50", {"variant": "v1.5"}, 224, *paper("25.557032M", "4.09B")),
)


def count(net: nn.Module, image: torch.Tensor) -> Counts:
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))]
    macs = {"conv1x1": 0, "conv": 0, "linear": 0}
    weights = dict.fromkeys(macs, 0)
    outputs = 0

    def add(module: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal outputs
        kind = "linear" if isinstance(module, nn.Linear) else "conv1x1" if module.kernel_size == (1, 1) else "conv"
        uses = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output  # of one filter's weights
        macs[kind] += uses.numel() * module.weight[0].numel()
        weights[kind] += module.weight.numel()
        outputs += output.numel()

    for layer in layers:
        layer.register_forward_hook(add)
    for module in net.modules():
        if isinstance(module, ELEMENTWISE):
            module.forward = lambda x: x  # changes no shape, and takes most of the time without data
    net.eval()(image)
    total = sum(macs.values())
    params = sum(parameter.numel() for parameter in net.parameters())
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    return Counts(
        {"all": params, "no batch norm": params - sum(2 * norm.num_features for norm in norms)},
        {"all": total, "convolutions": total - macs["linear"], "with additions": total + outputs},
        {kind: (macs[kind], weights[kind]) for kind in macs},
    )


def build_counts(row: Row) -> Counts:
    height, width = (row.size, row.size) if isinstance(row.size, int) else row.size
    with torch.device("meta"), torch.no_grad():
        return count(build_net(row.net, **row.args), torch.empty(1, 3, height, width))


def agrees(found: int, printed: str) -> bool:
    unit = UNITS[printed[-1]]
    expected = Decimal(printed[:-1])
    return any(
        (found / unit).quantize(expected, rounding=rounding) == expected for rounding in (ROUND_HALF_UP, ROUND_DOWN)
    )


def name(row: Row) -> str:
    return "-".join([row.net, *(f"{key}={value}" for key, value in row.args.items()), str(row.size)])


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_every_variant_costs_what_its_paper_prints(row: Row) -> None:
    counts = build_counts(row)
    for figure, found in ((row.params, counts.params), (row.macs, counts.macs)):
        if figure is None:
            continue
        assert bool(figure.ours) == bool(figure.why)
        assert agrees(found[figure.of], figure.ours or figure.printed), (figure, found)
        if figure.ours:  # a difference that is gone need not be explained
            assert not agrees(found[figure.of], figure.printed)


def test_nearly_all_of_mobilenet_is_in_its_1x1_convolutions() -> None:
    """MobileNets paper, table 2: 94.86 % of the multiply-adds, 74.59 % of the weights (no bias, no batch norm)."""
    kinds = build_counts(Row(V1, {}, 224, None, None)).by_kind
    macs, weights = (sum(values) for values in zip(*kinds.values(), strict=True))
    assert round(100 * kinds["conv1x1"][0] / macs, 2) == 94.86
    assert round(100 * kinds["conv1x1"][1] / weights, 2) == 74.59
