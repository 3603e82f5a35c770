"""The inspect stage's torch children: a card traced to a file, its network counted over width and resolution, and
networks of several cards counted layer by layer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import model_file
from mbdeploy.card import load_card
from mbdeploy.errors import CardError, UsageError
from mbdeploy.isolate import Progress

#: The input sizes that MobileNets (arXiv:1704.04861, table 7) prints.
SIZES = (128, 160, 192, 224)


def trace_card(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """Write the card's network to ``request["output"]``, without golden outputs and without comparing anything."""
    card = load_card(request["card"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's notes to its own developers
        from mbdeploy.nets import tracing, weights

        model, _ = tracing.trace_network(
            weights.load_network(card),
            card.preprocess.shape,
            exporter="dynamo",
            opset=18,
            outputs=("logits",),
            where=card.name,
        )
    model_file.write_metadata(model, {"mbdeploy.card": card.name})
    model_file.save_model(model, Path(request["output"]))
    return {}


def count_cards(request: dict[str, Any], on_progress: Progress) -> list[dict[str, Any]]:
    """The InspectReport of each of ``request["cards"]``, without its weights: shapes decide what a layer costs.

    The older exporter is used, which takes a tenth of the time; its counts are those of the newer one.

    Raises:
        CardError: a card without a net, or with arguments that it does not take.
    """
    from mbdeploy.costs.inspection import inspect_model
    from mbdeploy.nets import build_net, tracing

    found = []
    for index, path in enumerate(request["cards"]):
        on_progress("counting", index, len(request["cards"]))
        card = load_card(path)
        if card.net is None:
            raise CardError(
                where=card.name,
                expected="a card with a net",
                found="a factory" if card.factory else "an ONNX file",
                todo="leave it out",
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model, _ = tracing.trace_network(
                build_net(card.net, **card.args).eval(),
                card.preprocess.shape,
                exporter="torchscript",
                opset=18,
                outputs=("logits",),
                where=card.name,
            )
        found.append(msgspec.to_builtins(inspect_model(model, name=card.name, size_bytes=0)))
    return found


def sweep_card(request: dict[str, Any], on_progress: Progress) -> dict[str, Any]:
    """MACs and weights of the card's network over the widths it is published in, and ``SIZES``; fields of a Sweep.

    The card's own width and size are among them.

    Nothing is computed: on torch's meta device tensors have shapes only, and its own counter adds up
    convolutions and matrix products. Weights are those of two axes and more, as in the ONNX counts.

    Raises:
        UsageError: a card with a factory, or whose net takes no ``alpha``, the width multiplier.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mbdeploy.nets import build_net, list_alphas

    card = load_card(request["card"])
    if card.net is None or not list_alphas(card.net):
        raise UsageError(
            where=card.name,
            expected="a card whose net takes alpha, a width multiplier, for --sweep",
            found="one with a factory" if card.net is None else f"net {card.net}, which has one width",
            todo="choose another card (`mbdeploy list`), or leave --sweep out",
        )
    own = float(card.args.get("alpha", 1.0))
    cells = []
    for alpha in sorted({*list_alphas(card.net), own}):
        with torch.device("meta"):
            network = build_net(card.net, **{**card.args, "alpha": alpha}).eval()
        weights = sum(value.numel() for value in network.parameters() if value.ndim > 1)
        for size in sorted({*SIZES, card.preprocess.size}):
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                network(torch.empty(1, card.preprocess.channels, size, size, device="meta"))
            macs = counter.get_total_flops() // 2  # one multiply and one add each
            cells.append({"alpha": alpha, "size": size, "macs": macs, "weights": weights})
    return {"card": card.name, "alpha": own, "size": card.preprocess.size, "cells": cells}
