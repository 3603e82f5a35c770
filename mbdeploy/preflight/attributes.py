"""Attributes and small constants on which native code is known to crash or to hang: a table of bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from mbdeploy.bounds import Bounds
from mbdeploy.preflight.refusing import refuse, refuse_more, show_name
from mbdeploy.preflight.walking import Places, read_constant

#: Attributes that are lengths in pixels, or factors, and their least values; the most is ``max_window``.
_WINDOWS = {
    "kernel_shape": 1,
    "strides": 1,
    "dilations": 1,
    "pads": 0,
    "output_padding": 0,
    "blocksize": 1,
    "upscale_factor": 1,
    "pooled_shape": 1,
    "output_height": 1,
    "output_width": 1,
    "sampling_ratio": 0,
    "border": 0,
    "scales": 0,
    "height_scale": 0,
    "width_scale": 0,
    "p": 1,
    "size": 1,
}
#: Operators whose attributes of these names are something else.
_OTHERWISE = {"Pad": {"pads": None}, "ArrayFeatureExtractor": {}, "Scaler": {"scale": None}}
_LARGEST_GROUP = 1 << 20
_MOST_NUMBERS = 64
_AXES = ("axis", "axes", "batch_axis", "time_axis", "split_axis")
_LARGEST_AXIS = 64
_SMALLEST_INTEGER = {3: -(2**7), 5: -(2**15), 6: -(2**31), 7: -(2**63)}


def check_attributes(places: Places, where: object, bounds: Bounds) -> None:
    """Refuse nodes whose attributes or constant inputs are outside of what a network of images can mean.

    Raises:
        ModelError: with the node, the attribute, and the limit's option where it is one.
    """
    for node in places.nodes:
        for item in node.attribute:
            if item.name in _WINDOWS and not (node.op_type in _OTHERWISE and item.name in _OTHERWISE[node.op_type]):
                _check_window(node, item, where, bounds)
            elif item.name == "group" and not 1 <= item.i <= _LARGEST_GROUP:
                raise _refuse_value(node, "group", item.i, f"1 to {_LARGEST_GROUP:,}", where)
            elif item.name in _AXES:
                values = list(item.ints) or [item.i]
                if any(abs(value) > _LARGEST_AXIS for value in values):
                    raise _refuse_value(node, item.name, values, f"axes up to {_LARGEST_AXIS}", where)
        check = _BY_OPERATOR.get(node.op_type)
        if check is not None:
            check(node, places, where, bounds)


def _check_window(node: Any, item: Any, where: object, bounds: Bounds) -> None:
    least = _WINDOWS[item.name]
    values: list[float] = list(item.ints) or list(item.floats) or [item.f if item.type == 1 else item.i]
    if len(values) > _MOST_NUMBERS:
        raise _refuse_value(node, item.name, f"{len(values)} of them", f"at most {_MOST_NUMBERS} numbers", where)
    is_factor = "scale" in item.name
    if any(not math.isfinite(value) or value < least or (is_factor and value <= 0) for value in values):
        raise _refuse_value(node, item.name, values, "above 0" if is_factor else f"{least} or more", where)
    if any(value > bounds.max_window for value in values):
        raise refuse_more(where, bounds, "max_window", f"as {item.name} of {_name(node)}", _show(values))


def _check_scales(node: Any, places: Places, where: object, bounds: Bounds) -> None:
    """Resize and Upsample: scales that are finite and above 0, sizes that are 1 or more."""
    first = 1 if node.op_type == "Upsample" or len(node.input) == 2 else 2
    for index, word in ((first, "scales"), (3, "sizes")):
        values = read_constant(places, node.input[index]) if len(node.input) > index else None
        if values is None:
            continue
        least = 1 if word == "sizes" else 0
        if any(not math.isfinite(value) or value < least or value == 0 for value in values):
            raise _refuse_value(node, word, values, "finite numbers above 0", where)
        most = bounds.max_window if word == "scales" else bounds.max_window * 16
        if any(value > most for value in values):
            raise refuse_more(
                where, bounds, "max_window", f"(sixteen times that as sizes) in {_name(node)}", _show(values)
            )


def _check_pads(node: Any, places: Places, where: object, bounds: Bounds) -> None:
    """Pad: of any sign, as attribute or as input."""
    own = next((list(item.ints) for item in node.attribute if item.name in ("pads", "paddings")), None)
    values = own or (read_constant(places, node.input[1]) if len(node.input) > 1 else None) or []
    if any(abs(value) > bounds.max_window for value in values):
        raise refuse_more(where, bounds, "max_window", f"as pads of {_name(node)}", _show(values))


def _check_division(node: Any, places: Places, where: object, bounds: Bounds) -> None:
    """Integer division by 0, and of the smallest number by -1, stop the processor."""
    if len(node.input) < 2:
        return
    divisors = read_constant(places, node.input[1])
    if divisors is None or any(isinstance(value, float) for value in divisors):
        return
    if 0 in divisors:
        raise _refuse_value(node, "divisor", 0, "not 0 among integers", where)
    dividends = read_constant(places, node.input[0]) or []
    if -1 in divisors and set(dividends) & set(_SMALLEST_INTEGER.values()):
        raise _refuse_value(node, "dividend", min(dividends), "more than the smallest integer where -1 divides", where)


def _check_permutation(node: Any, places: Places, where: object, bounds: Bounds) -> None:
    order = next((list(item.ints) for item in node.attribute if item.name == "perm"), None)
    if order is not None and sorted(order) != list(range(len(order))):
        raise _refuse_value(node, "perm", order, "every axis once", where)


_BY_OPERATOR: dict[str, Callable[[Any, Places, object, Bounds], None]] = {
    "Resize": _check_scales,
    "Upsample": _check_scales,
    "Pad": _check_pads,
    "Div": _check_division,
    "Mod": _check_division,
    "Transpose": _check_permutation,
}


def _refuse_value(node: Any, name: str, values: Any, expected: str, where: object) -> Exception:
    return refuse(where, f"{name} of {_name(node)} to be {expected}", _show(values))


def _name(node: Any) -> str:
    return f"{show_name(node.op_type)[1:-1]} {show_name(node.name)}"


def _show(values: object) -> str:
    if not isinstance(values, Sequence) or isinstance(values, str):
        return str(values)
    shown = ", ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in values[:6])
    return f"[{shown}{', …' if len(values) > 6 else ''}]"
