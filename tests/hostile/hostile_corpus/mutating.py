"""Mutants of sound models: one to three fields anywhere in the message changed to what breaks parsers, by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from onnx import helper

from hostile_corpus.building import INT_MAX, INT_MIN, LONG_MAX, LONG_MIN, make_kernel, sound_model, wrap
from hostile_corpus.control import chain_functions, nest_branches
from hostile_corpus.scales import quantize

_INTEGERS = (0, 1, -1, 2, 3, 7, 255, 256, 65535, 65536, INT_MAX, INT_MIN, 2**31, 2**32, LONG_MAX, LONG_MIN)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, float("inf"), float("-inf"), float("nan"))
_OPERATORS = (
    "Relu",
    "Conv",
    "MaxPool",
    "Resize",
    "Loop",
    "If",
    "Reshape",
    "Gather",
    "Pad",
    "Transpose",
    "Split",
    "Cast",
)
_MOST_CHANGES = 3
_OF_MESSAGES = FieldDescriptor.TYPE_MESSAGE


def list_bases() -> list[onnx.ModelProto]:
    """Sound models of several kinds: plain, pooling and resizing, quantized, with branches, with functions."""
    mixed = [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv", pads=[1] * 4, kernel_shape=[3, 3], strides=[1, 1]),
        helper.make_node("MaxPool", ["c"], ["m"], "maxpool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Resize", ["m", "", "scales"], ["r"], "resize", mode="nearest"),
        helper.make_node("Transpose", ["r"], ["t"], "turn", perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", ["t", "shape"], ["f"], "reshape"),
        helper.make_node("Reshape", ["f", "back"], ["h"], "reshape back"),
    ]
    constants = {
        "w": make_kernel(),
        "scales": np.array([1, 1, 2, 2], np.float32),
        "shape": np.array([-1, 192]),
        "back": np.array([-1, 3, 8, 8]),
    }
    quantized = quantize(np.float32(0.05), np.uint8(128))
    return [sound_model(), wrap(mixed, constants), quantized, nest_branches(2), chain_functions(3, 2)]


def mutate(base: onnx.ModelProto, seed: int) -> bytes:
    """A mutant of ``base``: the same seed, the same bytes."""
    rng = random.Random(seed)
    model = onnx.ModelProto()
    model.CopyFrom(base)
    names = sorted({name for node in model.graph.node for name in (*node.input, *node.output)})
    for _ in range(rng.randint(1, _MOST_CHANGES)):
        message, field = rng.choice(_list_fields(model))
        _change(message, field, names, rng)
    data: bytes = model.SerializeToString(deterministic=True)
    if rng.random() < 0.1:
        place = rng.randrange(len(data))
        data = data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :]
    return data


def _list_fields(model: Any) -> list[tuple[Any, Any]]:
    """Every set field of every message, weights' raw bytes once."""
    found = []
    waiting = [model]
    while waiting:
        message = waiting.pop()
        for field, value in message.ListFields():
            found.append((message, field))
            if field.type == _OF_MESSAGES:
                waiting += list(value) if _repeats(value) else [value]
    return found


def _change(message: Any, field: Any, names: list[str], rng: random.Random) -> None:
    value = getattr(message, field.name)
    if _repeats(value):
        _change_list(value, field, names, rng)
    elif field.type == _OF_MESSAGES or rng.random() < 0.1:
        message.ClearField(field.name)
    else:
        try:
            setattr(message, field.name, _CHOICES[field.cpp_type](value, names, rng))
        except (ValueError, TypeError):  # out of the field's range
            message.ClearField(field.name)


def _change_list(values: Any, field: Any, names: list[str], rng: random.Random) -> None:
    index = rng.randrange(len(values))
    what = rng.choice(("drop", "repeat", "change", "change", "swap"))
    if what == "drop":
        del values[index]
    elif field.type == _OF_MESSAGES:
        values.add().CopyFrom(values[index])
    elif what == "repeat":
        values.extend([values[index]] * rng.choice((1, 2, 50)))
    elif what == "swap":
        other = rng.randrange(len(values))
        values[index], values[other] = values[other], values[index]
    else:
        try:
            values[index] = _CHOICES[field.cpp_type](values[index], names, rng)
        except (ValueError, TypeError):
            del values[index]


def _choose_text(value: Any, names: list[str], rng: random.Random) -> Any:
    if isinstance(value, bytes):
        cut = rng.randrange(len(value) + 1)
        return rng.choice((b"", value[:cut], value + value, value[:cut] + b"\xff\xff\xff\x7f" + value[cut + 4 :]))
    return rng.choice((*names, *_OPERATORS, "", "a" * 5000, "../secret.bin", "\x1b[2J"))


def _repeats(value: Any) -> bool:
    return hasattr(value, "extend")


_CHOICES: dict[int, Callable[[Any, list[str], random.Random], Any]] = {
    FieldDescriptor.CPPTYPE_STRING: _choose_text,
    FieldDescriptor.CPPTYPE_FLOAT: lambda value, names, rng: rng.choice(_FLOATS),
    FieldDescriptor.CPPTYPE_DOUBLE: lambda value, names, rng: rng.choice(_FLOATS),
    **dict.fromkeys(
        (
            FieldDescriptor.CPPTYPE_INT32,
            FieldDescriptor.CPPTYPE_INT64,
            FieldDescriptor.CPPTYPE_UINT64,
            FieldDescriptor.CPPTYPE_ENUM,
        ),
        lambda value, names, rng: rng.choice((*_INTEGERS, value + 1, value - 1)),
    ),
}
