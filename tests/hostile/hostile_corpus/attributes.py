"""Attributes at which native code divides by zero, overflows, allocates without end, or never returns."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import helper

from hostile_corpus.building import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN, Item, make_kernel, node_item, side_item

_POOLS = ("MaxPool", "AveragePool", "LpPool")
_BAD = (0, -1, 65536, INT_MAX, INT_MIN, LONG_MAX)


def list_items() -> Iterator[Item]:
    kernel = {"w": make_kernel()}
    for value in _BAD:
        yield node_item(f"Conv kernel {value}", "Conv", kernel, kernel_shape=[value, value])
        yield node_item(f"Conv strides {value}", "Conv", kernel, strides=[value, value])
        yield node_item(f"Conv dilations {value}", "Conv", kernel, dilations=[value, value])
        yield node_item(f"Conv group {value}", "Conv", kernel, group=value)
        yield node_item(f"MaxPool kernel {value}", "MaxPool", kernel_shape=[value, value])
        yield node_item(f"MaxPool strides {value}", "MaxPool", kernel_shape=[2, 2], strides=[value, value])
    for value in (-1, INT_MAX, LONG_MAX, LONG_MIN):
        yield node_item(f"Conv pads {value}", "Conv", kernel, pads=[value] * 4)
        for pool in _POOLS:
            yield node_item(f"{pool} pads {value}", pool, kernel_shape=[2, 2], pads=[value] * 4)
    for pool in _POOLS:
        yield node_item(f"{pool} without a kernel", pool)
        yield node_item(f"{pool} of one number", pool, kernel_shape=[2])
        yield node_item(f"{pool} of fifty numbers", pool, kernel_shape=[2] * 50)
        yield node_item(f"{pool} larger than the image", pool, kernel_shape=[4000, 4000])
    yield node_item("Conv with text as kernel", "Conv", kernel, kernel_shape="abc")
    yield node_item("Conv with a float as group", "Conv", kernel, group=1.5)
    yield node_item("Conv with unknown padding", "Conv", kernel, auto_pad="NOWHERE")
    yield node_item("Conv without weights", "Conv")
    yield node_item("Conv twice the channels", "Conv", {"w": np.ones((3, 6, 3, 3), np.float32)}, pads=[1] * 4)
    yield node_item("ConvTranspose output", "ConvTranspose", kernel, output_shape=[INT_MAX, INT_MAX])
    yield node_item("ConvTranspose padding", "ConvTranspose", kernel, output_padding=[INT_MAX, 0])
    yield node_item("LRN of 0", "LRN", size=0)
    yield node_item("LRN of 2^31 - 1", "LRN", size=INT_MAX)
    yield node_item("SpaceToDepth of 0", "SpaceToDepth", blocksize=0)
    yield node_item("DepthToSpace of -1", "DepthToSpace", blocksize=-1)
    yield node_item("DepthToSpace of 2^31 - 1", "DepthToSpace", blocksize=INT_MAX)
    yield node_item("Transpose out of range", "Transpose", perm=[0, 1, 2, 9])
    yield node_item("Transpose twice the same", "Transpose", perm=[0, 0, 2, 3])
    yield node_item("Transpose negative", "Transpose", perm=[0, -1, 2, 3])
    yield node_item("Softmax axis", "Softmax", axis=LONG_MAX)
    yield node_item("Concat axis", "Concat", axis=LONG_MIN)
    yield node_item("Flatten axis", "Flatten", axis=-1000)
    yield node_item("Cast to nothing", "Cast", to=99)
    yield node_item(
        "Dropout of NaN", "Dropout", {"ratio": np.float32("nan")}, harmless="Dropout does nothing at inference"
    )
    for scale in ("-inf", "inf", "nan", "0", "-1", "1e30", "1e-30"):
        scales = np.array([1, 1, float(scale), float(scale)], np.float32)
        constants = {"roi": np.zeros(0, np.float32), "scales": scales}
        yield node_item(f"Resize scale {scale}", "Resize", constants, mode="nearest")
    for size in (0, -1, LONG_MAX, 10**6):
        constants = {
            "roi": np.zeros(0, np.float32),
            "s": np.zeros(0, np.float32),
            "sizes": np.array([1, 3, size, size]),
        }
        yield node_item(f"Resize to {size}", "Resize", constants, mode="nearest")
    for pad in (INT_MAX, LONG_MAX, LONG_MIN, -1000):
        harmless = ""
        yield node_item(f"Pad {pad}", "Pad", {"pads": np.array([0, 0, pad, pad, 0, 0, pad, pad])}, harmless=harmless)
    for kind, least in ((np.int32, INT_MIN), (np.int64, LONG_MIN)):
        for operator in ("Div", "Mod"):
            for divisor in (0, -1):
                numbers = {"a": np.array([least], kind), "b": np.array([divisor], kind)}
                node = helper.make_node(operator, ["a", "b"], ["side"], "divide")
                yield side_item(f"{operator} {kind.__name__} smallest by {divisor}", [node], numbers)
    hidden = [helper.make_node("Neg", ["one"], ["b"]), helper.make_node("Div", ["a", "b"], ["side"])]
    yield side_item(
        "Div by a computed -1", hidden, {"a": np.array([INT_MIN], np.int32), "one": np.array([1], np.int32)}
    )
    gather = [helper.make_node("Gather", ["a", "i"], ["side"])]
    for index in (LONG_MAX, LONG_MIN, 5):
        yield side_item(f"Gather at {index}", gather, {"a": np.ones(3, np.float32), "i": np.array([index])})
    shaped = [helper.make_node("Reshape", ["a", "s"], ["side"])]
    for shape in ([-1, -1], [LONG_MAX, LONG_MAX], [0, -1], [-5]):
        yield side_item(f"Reshape to {shape}", shaped, {"a": np.ones(6, np.float32), "s": np.array(shape)})
    sliced = [helper.make_node("Slice", ["a", "s", "e", "x", "t"], ["side"])]
    for step in (0, LONG_MIN, LONG_MAX):
        parts = {"s": np.array([0]), "e": np.array([LONG_MAX]), "x": np.array([0]), "t": np.array([step])}
        harmless = "a step of 2^63 - 1 takes the first element, as ONNX says" if step == LONG_MAX else ""
        yield side_item(f"Slice by {step}", sliced, {"a": np.ones(6, np.float32), **parts}, harmless=harmless)
    top = [helper.make_node("TopK", ["a", "k"], ["side", "places"])]
    for count in (-1, LONG_MAX):
        yield side_item(f"TopK of {count}", top, {"a": np.ones(6, np.float32), "k": np.array([count])})
    hot = [helper.make_node("OneHot", ["a", "d", "v"], ["side"])]
    for depth in (-1, 10**12):
        parts = {"a": np.array([1]), "d": np.array([depth]), "v": np.array([0.0, 1.0], np.float32)}
        yield side_item(f"OneHot of {depth}", hot, parts)
    yield side_item(
        "Einsum of nonsense",
        [helper.make_node("Einsum", ["a"], ["side"], equation="ij->zzz,,")],
        {"a": np.ones((2, 2), np.float32)},
    )
    split = [helper.make_node("Split", ["a", "p"], ["side", "rest"])]
    yield side_item("Split of negative parts", split, {"a": np.ones(4, np.float32), "p": np.array([-4, 8])})
