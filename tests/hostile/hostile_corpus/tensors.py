"""Sizes, element types and data that contradict each other; numbers that are none."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper

from hostile_corpus.building import INT_MAX, LONG_MAX, LONG_MIN, Item, item, make_kernel, side_item, sound_model, wrap


def spoil_kernel(name: str, dims: list[int] | None = None, **fields: object) -> Item:
    """The convolution's weights with other dims, type or data."""
    model = sound_model()
    tensor = next(one for one in model.graph.initializer if one.name == "w")
    if dims is not None:
        del tensor.dims[:]
        tensor.dims.extend(dims)
    for key, value in fields.items():
        setattr(tensor, key, value)
    return item(name, model)


def spoil_input(name: str, axes: list[object], kind: int = TensorProto.FLOAT, harmless: str = "") -> Item:
    model = sound_model()
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("image", kind, axes))
    return item(name, model, harmless=harmless)


def make_kernel_of(value: float) -> np.ndarray:
    kernel = make_kernel()
    kernel[0, 0, 0, 0] = value
    return kernel


def list_items() -> Iterator[Item]:
    yield spoil_kernel("negative axis", [-3, 3, 3, 3])
    yield spoil_kernel("axis of 2^31", [2**31, 3, 3, 3])
    yield spoil_kernel("axis of 2^63 - 1", [LONG_MAX, 3, 3, 3])
    yield spoil_kernel("axis of -2^63", [LONG_MIN, 3, 3, 3])
    yield spoil_kernel("product that is 0 modulo 2^64", [2**16] * 4)
    yield spoil_kernel("product that is small modulo 2^64", [2**32 + 1, 2**32, 1, 1])
    yield spoil_kernel("no elements", [0, 3, 3, 3])
    yield spoil_kernel("a hundred axes", [1] * 100)
    yield spoil_kernel("a hundred thousand axes", [1] * 100_000)
    yield spoil_kernel("more than there is", [300, 3, 3, 3])
    yield spoil_kernel("less than there is", [1, 3, 3, 3])
    yield spoil_kernel("three bytes too few", raw_data=make_kernel().tobytes()[:-3])
    yield spoil_kernel("no data", raw_data=b"")
    for kind in (0, 8, 14, 16, 25, 99, INT_MAX):
        yield spoil_kernel(f"type {kind}", data_type=kind)
    for value in (float("nan"), float("inf"), float("-inf")):
        yield spoil_kernel(f"weight of {value}", raw_data=make_kernel_of(value).tobytes())
    yield spoil_kernel("signalling NaN", raw_data=struct.pack("<I", 0x7F800001) + make_kernel().tobytes()[4:])
    yield spoil_kernel("largest floats", raw_data=np.full((3, 3, 3, 3), 3.4e38, np.float32).tobytes())
    yield spoil_input("input of -1", [1, 3, -1, 8], harmless="an axis that is not known, as Paddle writes it")
    yield spoil_input("input of -2", [1, 3, -2, 8])
    yield spoil_input("input of 0", [1, 0, 8, 8])
    yield spoil_input("input of 2^40", [1, 3, 2**40, 8])
    yield spoil_input("input of terabytes", [1, 3, 1_000_000, 1_000_000])
    yield spoil_input("input of text", ["n", 3, 8, 8], TensorProto.STRING)
    yield spoil_input("input of float16", ["n", 3, 8, 8], TensorProto.FLOAT16)
    yield spoil_input("input of no type", ["n", 3, 8, 8], 0)
    yield spoil_input("input of 5 axes", ["n", 3, 8, 8, 1])
    yield spoil_input("input of another size", ["n", 3, 9, 9])
    yield item("two inputs", _add_input)
    yield item("no inputs", _drop_inputs)
    yield item("no outputs", _drop_outputs)
    yield item("an output that nobody makes", _rename_output)
    yield item("a tensor twice", _repeat_kernel)
    for name, shape in {
        "3.4 GB": [900_000_000],
        "10^18 elements": [10**9, 10**9],
        "negative": [-1],
        "2^63 - 1": [LONG_MAX],
        "too many axes": [1] * 200,
    }.items():
        constant = {"shape": np.array(shape, np.int64)}
        yield side_item(f"ConstantOfShape {name}", [helper.make_node("ConstantOfShape", ["shape"], ["side"])], constant)
        expand = [helper.make_node("Expand", ["one", "shape"], ["side"])]
        yield side_item(f"Expand {name}", expand, {"one": np.ones(1, np.float32), **constant})
    times = [helper.make_node("Tile", ["one", "times"], ["side"])]
    yield side_item("Tile of 2^40", times, {"one": np.ones(1, np.float32), "times": np.array([2**40])})
    counting = [helper.make_node("Range", ["a", "b", "c"], ["side"])]
    for name, values in {"2^62": (0, 2**62, 1), "step 0": (0, 1, 0), "backwards": (LONG_MAX, LONG_MIN, 1)}.items():
        constants = {key: np.array(value) for key, value in zip("abc", values, strict=True)}
        harmless = "an empty range has no mean: NaN, which the gates see" if name == "backwards" else ""
        yield side_item(f"Range {name}", counting, constants, harmless=harmless)
    made = [helper.make_node("RandomNormal", [], ["side"], shape=[2**20, 2**20])]
    yield side_item("RandomNormal of terabytes", made, {})
    product = [helper.make_node("Mul", ["a", "a"], ["b"]), helper.make_node("ConstantOfShape", ["b"], ["side"])]
    yield side_item("a size that is computed", product, {"a": np.array([200_000])})


def _add_input() -> onnx.ModelProto:
    model = sound_model()
    model.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    return model


def _drop_inputs() -> onnx.ModelProto:
    model = wrap([helper.make_node("Constant", [], ["h"], value_floats=[1.0])])
    del model.graph.input[:]
    return model


def _drop_outputs() -> onnx.ModelProto:
    model = sound_model()
    del model.graph.output[:]
    return model


def _rename_output() -> onnx.ModelProto:
    model = sound_model()
    model.graph.output[0].name = "nobody"
    return model


def _repeat_kernel() -> onnx.ModelProto:
    model = sound_model()
    model.graph.initializer.add().CopyFrom(model.graph.initializer[-1])
    return model
