"""Make every product of a file safe on every CPU, without data, and say what that cost."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from mbdeploy.auditing import grids
from mbdeploy.auditing.choosing import Choice, choose_weights
from mbdeploy.auditing.clipping import find_unsafe
from mbdeploy.auditing.matching import list_candidates, match_weights
from mbdeploy.auditing.products import Product, read_products
from mbdeploy.auditing.report import Repaired, RepairRecord
from mbdeploy.auditing.rewriting import Rewriter, may_rescale
from mbdeploy.model_file import read_opset
from mbdeploy.quant.pairsafe import Floats


def repair_model(
    model: onnx.ModelProto, where: Path, against: tuple[onnx.ModelProto, Path] | None
) -> tuple[onnx.ModelProto, RepairRecord]:
    """A safe copy of a model: weights from its own integers, or from the float model ``against``.

    Raises:
        ModelError: ``against`` lacks the weights of a layer that needs repair.
    """
    reading = read_products(model, where)
    opset = read_opset(model)
    candidates = [] if against is None else list_candidates(against[0])
    rewriter = Rewriter(model)
    repaired = []
    left = dict(reading.unjudged)
    before = 0
    for product in reading.products:
        hazards = find_unsafe(product)
        rescale = may_rescale(product, opset)
        overflowing, cut = grids.find_overflow(product)
        if overflowing.any() and not rescale:
            left[product.layer.node] = "its bias can leave int32, and its scale cannot be changed here"
        if cut.any():
            left[product.layer.node] = f"{cut.sum()} biases were cut off at int32's end: what they were is lost"
        overflowing &= rescale & ~cut
        clipping = hazards["pairs"] | hazards["twins"]
        unsafe = clipping | overflowing
        if not unsafe.any():
            continue
        before += bool(clipping.any())
        target = product.view.astype(np.float64)
        if against is not None and rescale:
            assert product.scales is not None
            target = match_weights(product, candidates, against[1]) / product.spread(product.scales)
        pairs = bool(hazards["pairs"].any())
        choice = choose_weights(product, target, unsafe, overflowing, rescale=rescale, pairs=pairs)
        rewriter.put(product, choice)
        repaired.append(_describe(product, choice, target, int(unsafe.sum())))
    made = rewriter.finish()
    after = read_products(made, where)
    record = RepairRecord(
        source=f"the float weights of {against[1]}" if against else "the file's own integers",
        layers=tuple(repaired),
        left=left,
        clipping_before=before,
        clipping_after=sum(any(mask.any() for mask in find_unsafe(product).values()) for product in after.products),
    )
    return made, record


def _describe(product: Product, choice: Choice, target: Floats, channels: int) -> Repaired:
    growth = choice.growth[:, np.newaxis, np.newaxis]
    scale = 1.0 if product.scales is None else product.spread(product.scales)
    return Repaired(
        node=product.layer.node,
        channels=channels,
        growth_max=float(choice.growth.max()),
        weights_db=(
            _compare(target * scale, product.view * scale),
            _compare(target * scale, choice.integers * growth * scale),
        ),
    )


def _compare(wanted: Floats, stored: Floats) -> float:
    noise = float(((wanted - stored) ** 2).sum())
    return float("inf") if noise == 0 else float(10 * np.log10(max(float((wanted**2).sum()), 1e-300) / noise))
