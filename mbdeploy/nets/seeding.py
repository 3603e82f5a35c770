"""Seeded weights that behave like trained ones: sane activations, real batch-norm statistics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mbdeploy.card import Preprocess
from mbdeploy.errors import CardError

BATCH = 16  # fewer, and the last stages' statistics fit these images only
BRIGHTNESS, CONTRAST = 118.0, 64.0  # mean and deviation of photographs' pixels, 0..255
GRIDS = (1, 2, 4, 8, 16, 32, 64)  # of the random images, in cells a side
GRAIN = 0.2  # deviation of a kernel's taps about its smooth shape
SHIFT = 1.25  # mean of batch norm's shifts: the further from 0, the less ReLU bends and so amplifies noise
POOLED = 0.1  # size of what a layer makes of pooled maps: gates that swing widely multiply their noise into the maps


def seed_weights(net: nn.Module, seed: int, preprocess: Preprocess, *, where: str = "") -> None:
    """Fill a network with weights that depend only on ``seed``, ready to be quantized and compared.

    ``preprocess`` says what inputs look like. A plain random network gives almost the same logits for
    every image and drowns them in the noise of int8; this one does neither. Rules: 1. convolutions and
    linear layers: Kaiming normal, and a kernel's taps follow a smooth window with a random sign, as
    trained ones mostly do, so that what tells images apart passes. 2. Batch norm: scales and shifts
    that differ from channel to channel. 3. Statistics of batch norm are those of the network's own
    activations on random images, not 0 and 1. 4. Where a layer has a bias, which means that no batch
    norm follows it, its output is divided by its root mean square, then each channel's mean is taken
    off (not the other way round: maps that were pooled hardly vary, and must not be blown up); where
    it is one position large, as in the gates of squeeze-and-excite, it is brought to ``POOLED`` instead
    of 1. 5. The channels of a depthwise layer without a bias are brought to the same size: a batch norm
    far behind it (ESPNetv2's) would blow up the small ones, and with them the noise of int8. 6. All is
    computed in float64 and statistics are rounded, so that threads and processors leave no trace in the
    bits. The global random state stays.

    Raises:
        CardError: the network refuses an input of this shape.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        net.double()  # 6.
        for module in net.modules():
            _draw(module)
        images = make_images(preprocess)
        try:
            _settle(net, images)
        except RuntimeError as error:
            raise CardError(
                where=where,
                expected=f"a network that takes inputs of {tuple(images.shape)}",
                found=str(error).splitlines()[0],
                todo="correct preprocess.size, preprocess.channels or the card's [args]",
            ) from error
        finally:
            net.float()


def make_images(preprocess: Preprocess) -> Tensor:
    """``BATCH`` random float64 inputs (N, C, H, W): preprocessed pixels with structure at every size.

    Like photographs they differ in contrast, and in how much of it lies in fine structure.
    """
    channels, height, width = preprocess.shape
    slopes = 0.2 + _draw_uniform(BATCH, 1, 1, 1)
    fields = torch.zeros(BATCH, channels, height, width, dtype=torch.float64)
    for cells in GRIDS:
        grid = _draw_normal(BATCH, 1, cells, cells) + 0.5 * _draw_normal(BATCH, channels, cells, cells)
        fine = F.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        fields += fine * cells**-slopes
    contrasts = CONTRAST * (0.5 + _draw_uniform(BATCH, 1, 1, 1))
    pixels = (BRIGHTNESS + contrasts * fields / fields.std(dim=(1, 2, 3), keepdim=True)).clamp(0, 255)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.mean, preprocess.std))
    return (pixels - mean.reshape(-1, 1, 1)) / std.reshape(-1, 1, 1)


def _draw_normal(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def _draw_uniform(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def _draw(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):  # 1.
        weight = torch.randn_like(module.weight)
        if weight.ndim == 4 and weight[0, 0].numel() > 1:
            weight = weight[:, :, :1, :1] * _make_window(weight.shape[2], weight.shape[3]) + GRAIN * weight
        module.weight.copy_(weight * (2 / weight[0].numel()) ** 0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):  # 2.
        nn.init.uniform_(module.weight, 0.6, 1.4)
        nn.init.normal_(module.bias, SHIFT, 0.2)


def _make_window(height: int, width: int) -> Tensor:
    sides = [torch.hann_window(side + 2, periodic=False, dtype=torch.float64)[1:-1] for side in (height, width)]
    window = torch.outer(*sides)
    return window / window.square().mean().sqrt()


def _settle(net: nn.Module, images: Tensor) -> None:
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    layers = [module for module in net.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    biased = [layer for layer in layers if layer.bias is not None]
    depthwise = [layer for layer in layers if layer.bias is None and layer.weight.shape[1] == 1]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the average over all passes, here of one
    hooks = [layer.register_forward_hook(_standardise) for layer in biased]
    hooks += [layer.register_forward_hook(_even_out) for layer in depthwise]
    net.train()
    try:
        net(images)  # 3.
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    for norm in norms:
        norm.running_mean, norm.running_var = _coarsen(norm.running_mean), _coarsen(norm.running_var)


def _standardise(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    # 4. A hook can do it in one pass, because it returns the output that the new weights would give.
    channels = [-1] + [1] * (output.ndim - 2)
    mean = _coarsen(output.mean(dim=[axis for axis in range(output.ndim) if axis != 1]))
    aim = POOLED if output.ndim == 4 and output[0, 0].numel() == 1 else 1.0
    size = _coarsen(output.square().mean().sqrt().clamp(min=1e-3)) / aim
    module.weight /= size
    module.bias.copy_((module.bias - mean) / size)
    return (output - mean.reshape(channels)) / size


def _even_out(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    size = _coarsen(output.square().mean(dim=(0, 2, 3)).sqrt().clamp(min=1e-3))  # 5.
    module.weight /= size.reshape(-1, 1, 1, 1)
    return output / size.reshape(-1, 1, 1)


def _coarsen(statistic: Tensor) -> Tensor:
    # 6. Eight bits are enough for a statistic, and too few to show in which order its terms were added.
    return statistic.bfloat16().double()
