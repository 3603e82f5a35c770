"""What the rules of ``audit`` look for: each function gives a summary and the places, the worst first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from mbdeploy.auditing import grids
from mbdeploy.auditing.clipping import Tally
from mbdeploy.auditing.fusing import Fused, explain_float
from mbdeploy.auditing.products import Reading
from mbdeploy.auditing.report import Spot

_BIAS_SCALE_ERROR = 1e-3


class Facts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What rules look at: the file, its unsafe channels and its clipped outputs by node, and its optimised graph.

    ``refusal`` is what ONNX Runtime says of a file that it does not load.
    """

    reading: Reading
    unsafe: Mapping[str, Mapping[str, NDArray[np.bool_]]]
    tallies: Mapping[str, Tally]
    fused: Fused | None
    refusal: str = ""


def check_pairs(facts: Facts) -> tuple[str, list[Spot]]:
    found = []
    for product in facts.reading.products:
        mask = facts.unsafe[product.layer.node]["pairs"]
        if mask.any():
            tally = facts.tallies.get(product.layer.node)
            seen = "" if tally is None else f"; {tally.share:.2%} of outputs did, {_say_db(tally)}"
            text = f"{mask.sum()} of {mask.size} channels{seen}"
            weight = float(mask.mean()) if tally is None else tally.noise / max(tally.signal, 1e-300)
            found.append((weight, Spot(node=product.layer.node, text=text)))
    did = sum(tally.clipped > 0 for tally in facts.tallies.values())
    seen = f", and {did} did on the images given" if facts.tallies else ""
    return f"{len(found)} of {len(facts.reading.products)} layers can clip in int16{seen}", _worst_first(found)


def check_twins(facts: Facts) -> tuple[str, list[Spot]]:
    found = []
    for product in facts.reading.products:
        mask = facts.unsafe[product.layer.node]["twins"]
        if mask.any():
            text = f"{mask.sum()} of {mask.size} channels hold -128 twice"
            found.append((float(mask.mean()), Spot(node=product.layer.node, text=text)))
    count = f"{len(found)} of {len(facts.reading.products)} layers"
    return f"{count} can wrap in int16 on old ARM cores", _worst_first(found)


def check_scales(facts: Facts) -> tuple[str, list[Spot]]:
    spots = grids.find_bad_scales(facts.reading.tensors)
    return f"{len(spots)} scales that are zero, negative or not finite", spots


def check_tiny(facts: Facts) -> tuple[str, list[Spot]]:
    spots = grids.find_tiny_scales(facts.reading.tensors)
    return f"{len(spots)} scales below float32's normal range, which some CPUs take as zero", spots


def check_zeros(facts: Facts) -> tuple[str, list[Spot]]:
    spots = [*grids.find_bad_zeros(facts.reading.tensors), *grids.find_uneven_zeros(facts.reading.products)]
    return f"{len(spots)} zero points that do not fit their tensors", spots


def check_bias(facts: Facts) -> tuple[str, list[Spot]]:
    found = []
    for product in facts.reading.products:
        wraps, cut = grids.find_overflow(product)
        bad = wraps | cut
        if product.bias is not None and bad.any():
            largest = float(np.abs(product.bias[bad].astype(np.float64)).max()) / np.iinfo(np.int32).max
            text = f"{bad.sum()} of {bad.size} channels, with biases of up to {largest:.2%} of int32"
            text += f"; {cut.sum()} are cut off at its end" if cut.any() else ""
            found.append((float(bad.mean()), Spot(node=product.layer.node, text=text)))
    return f"{len(found)} layers whose sums leave int32, or whose bias has", _worst_first(found)


def check_bias_scale(facts: Facts) -> tuple[str, list[Spot]]:
    found = []
    for product in facts.reading.products:
        if product.bias_scale is None or product.scales is None or product.input_scale is None:
            continue
        with np.errstate(all="ignore"):
            off = np.abs(product.bias_scale / (product.input_scale * product.scales) - 1)
        worst = float(np.nanmax(off, initial=0.0))
        if worst > _BIAS_SCALE_ERROR:
            text = f"up to {worst:.3g} off input scale x weight scale, which integer kernels take instead"
            found.append((worst, Spot(node=product.layer.node, text=text)))
    return f"{len(found)} layers whose bias counts for something else in float than in integers", _worst_first(found)


def check_spread(facts: Facts) -> tuple[str, list[Spot]]:
    found = []
    layers = [product for product in facts.reading.products if product.layer.depthwise]
    for product in layers:
        if product.per_channel or product.channels < 2:
            continue
        view = product.view.astype(np.int64) - product.spread(product.zeros)
        largest = np.abs(view).max(axis=(1, 2))
        alive = largest[largest > 0]
        few = int((alive < grids.FEW_LEVELS).sum()) + int(largest.size - alive.size)
        if few:
            spread = float(alive.max() / alive.min()) if alive.size else 0.0
            text = f"one scale for {largest.size} channels, {few} of them with fewer than {grids.FEW_LEVELS} levels"
            found.append((spread, Spot(node=product.layer.node, text=f"{text}; ranges spread {spread:.3g} x")))
    return f"{len(found)} of {len(layers)} depthwise layers lost channels to one scale per tensor", _worst_first(found)


def check_fusing(facts: Facts) -> tuple[str, list[Spot]]:
    if facts.fused is None:
        return "", []
    fused, reading = facts.fused, facts.reading
    slow = {
        product.layer.node: f"runs in float: {explain_float(reading, product)}"
        for product in reading.products
        if fused.integer.get(product.layer.node) is False
    }
    texts = {node: f"{operator} in float" for node, operator in fused.islands.items()}
    texts = {**slow, **{node: f"a layer in float: {reason}" for node, reason in reading.floats.items()}, **texts}
    taken: dict[str, list[str]] = {node: [node] for node in texts}
    for conversion, node in fused.beside.items():
        texts.setdefault(node, "a conversion that no node takes in" if node == conversion else "in float")
        taken.setdefault(node, [node] if node != conversion else []).append(conversion)
    spots = [Spot(node=node, text=text, time_share=fused.share(taken[node])) for node, text in texts.items()]
    floats = len(slow) + len(reading.floats)
    total = len(reading.products) + len(reading.floats)
    summary = f"{floats} of {total} layers in float, {fused.between} conversions inside the graph"
    return summary, sorted(spots, key=lambda spot: -(spot.time_share or 0))


def check_crushed(facts: Facts) -> tuple[str, list[Spot]]:
    spots = [spot for _, spot in sorted(grids.find_crushed(facts.reading.tensors), key=lambda pair: pair[0])]
    return f"{len(spots)} tensors with too few levels where others join them", spots


def check_loading(facts: Facts) -> tuple[str, list[Spot]]:
    return "ONNX Runtime's CPU provider does not load it", [Spot(node="", text=facts.refusal)] if facts.refusal else []


def check_unjudged(facts: Facts) -> tuple[str, list[Spot]]:
    spots = [Spot(node=node, text=reason) for node, reason in facts.reading.unjudged.items()]
    return f"{len(spots)} integer products of which nothing can be said", spots


def _say_db(tally: Tally) -> str:
    return "nothing lost" if tally.noise == 0 else f"{tally.sqnr_db:.1f} dB left of its sums"


def _worst_first(found: Iterable[tuple[float, Spot]]) -> list[Spot]:
    return [spot for _, spot in sorted(found, key=lambda pair: pair[0], reverse=True)]
