"""Large ONNX files without their weights: the protobuf wire format walked in place, large data left in the file.

A parser copies every weight at least twice; of a 500 MB file inspection needs the graph and a few rows.
Format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

import mmap
from pathlib import Path

import onnx

from mbdeploy.preflight.wire import BYTES, walk

RawData = dict[str, memoryview]
"""The raw data of initializers that a light model lacks, by name, as the file holds it."""

_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_NAME, _TENSOR_RAW_DATA = 7, 5, 8, 9
#: Initializers below this keep their data: it may be sizes.
_SMALL_BYTES = 1 << 16


def read_light(path: Path) -> tuple[onnx.ModelProto, RawData]:
    """The model without the raw data of its large initializers, and these as views into the file.

    Raises:
        ValueError: not a whole ONNX file; ``model_file.load_model`` says what it is instead.
    """
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    raw: RawData = {}
    parts: list[bytes | memoryview] = []
    for number, start, end, body in walk(data):
        parts.append(_wrap(number, _lighten_graph(data[body:end], raw)) if number == _MODEL_GRAPH else data[start:end])
    model = onnx.ModelProto()
    try:
        model.ParseFromString(b"".join(parts))
    except Exception as error:  # protobuf's DecodeError lies elsewhere in each of its implementations
        raise ValueError(str(error)) from error
    return model, raw


def _lighten_graph(graph: memoryview, raw: RawData) -> bytes:
    parts: list[bytes | memoryview] = []
    for number, start, end, body in walk(graph):
        is_large = number == _GRAPH_INITIALIZER and end - body > _SMALL_BYTES
        parts.append(_wrap(number, _lighten_tensor(graph[body:end], raw)) if is_large else graph[start:end])
    return b"".join(parts)


def _lighten_tensor(tensor: memoryview, raw: RawData) -> bytes:
    parts: list[memoryview] = []
    name, data = "", None
    for number, start, end, body in walk(tensor):
        if number == _TENSOR_RAW_DATA:
            data = tensor[body:end]
            continue
        if number == _TENSOR_NAME:
            name = bytes(tensor[body:end]).decode("utf-8", "replace")
        parts.append(tensor[start:end])
    if data is not None:
        raw[name] = data
    return b"".join(parts)


def _wrap(number: int, body: bytes) -> bytes:
    return b"".join((_write_varint(number << 3 | BYTES), _write_varint(len(body)), body))


def _write_varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    written.append(value)
    return bytes(written)
