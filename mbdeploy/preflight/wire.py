"""The protobuf wire format of an ONNX file, walked in pure Python before the parser sees it.

A parser's memory grows with the number of fields, not with the size of the file: a message of two bytes takes a
hundred. Format: https://protobuf.dev/programming-guides/encoding/; field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Iterator

from mbdeploy.bounds import Bounds
from mbdeploy.preflight.refusing import refuse, refuse_more, show_bytes

VARINT, BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
_TEXT, _PACKED = "text", "packed"


def _name_texts(*numbers: int) -> dict[int, str]:
    return dict.fromkeys(numbers, _TEXT)


#: What a field of each message is: a message of its own, text, or packed numbers; the rest does not matter.
_SCHEMA: dict[str, dict[int, str]] = {
    "model": {7: "graph", 8: "operators", 14: "entry", 20: "training", 25: "function"} | _name_texts(2, 3, 4, 6),
    "training": {1: "graph", 2: "graph", 3: "entry", 4: "entry"},
    "graph": {1: "node", 5: "tensor", 11: "value", 12: "value", 13: "value", 15: "sparse", 16: "entry"}
    | _name_texts(2, 10),
    "node": {5: "attribute", 9: "entry"} | _name_texts(1, 2, 3, 4, 6, 7, 8),
    "attribute": {5: "tensor", 6: "graph", 8: _PACKED, 10: "tensor", 11: "graph", 14: "type", 15: "type", 22: "sparse"}
    | _name_texts(1, 13, 21),
    "function": {7: "node", 9: "operators", 11: "attribute", 12: "value", 14: "entry"}
    | _name_texts(1, 4, 5, 6, 8, 10, 13),
    "tensor": {1: _PACKED, 5: _PACKED, 7: _PACKED, 8: _TEXT, 11: _PACKED, 12: _TEXT, 13: "entry"},
    "sparse": {1: "tensor", 2: "tensor", 3: _PACKED},
    "value": {1: _TEXT, 2: "type", 3: _TEXT, 4: "entry"},
    "type": {1: "shaped", 4: "typed", 5: "typed", 6: _TEXT, 8: "shaped", 9: "typed"},
    "typed": {1: "type", 2: "type"},
    "shaped": {2: "shape"},
    "shape": {1: "axis"},
    "axis": {2: _TEXT, 3: _TEXT},
    "entry": {1: _TEXT, 2: _TEXT},
    "operators": {1: _TEXT},
}
#: Levels of messages; the parser itself stops at 100.
_DEEPEST = 64
#: Fields of all messages, for each node allowed. (A node of a network has some forty, and networks some hundred nodes.)
_FIELDS_PER_NODE = 10
#: What the parser makes of a packed number of one byte.
_GROWTH = 8


def scan_wire(data: bytes | memoryview, where: object, bounds: Bounds) -> None:
    """Refuse bytes that are no whole ONNX message, or of which a parser would make far more than they are.

    Rules: 1. every field ends within its message, and every number within ten bytes. 2. Messages are nested in at
    most 64 levels. 3. There are at most ``max_nodes`` nodes, and ten fields for each of these. 4. Packed numbers take
    at most ``max_memory`` bytes once they are unpacked. 5. Text is UTF-8: the parser would hand over bytes.

    Raises:
        ModelError: one of these does not hold.
    """
    waiting: list[tuple[str, int, int, int]] = [("model", 1, 0, len(data))]
    fields = nodes = packed = 0
    most = bounds.max_nodes * _FIELDS_PER_NODE
    try:
        while waiting:
            message, depth, place, stop = waiting.pop()
            if depth > _DEEPEST:
                raise refuse(where, f"messages nested in at most {_DEEPEST} levels", "more of them")  # 2.
            schema = _SCHEMA[message]
            while place < stop:
                number, kind, place, body = read_field(data, place, stop)  # 1.
                fields += 1
                inner = schema.get(number, "")
                if inner == _PACKED and kind == BYTES:
                    packed += place - body
                elif inner == _TEXT and kind == BYTES:
                    str(memoryview(data)[body:place], "utf-8")  # 5.
                elif inner and kind == BYTES:
                    nodes += inner == "node"
                    waiting.append((inner, depth + 1, body, place))
                if fields > most or nodes > bounds.max_nodes:  # 3.
                    what = f"nodes, and {_FIELDS_PER_NODE} fields for each"
                    raise refuse_more(where, bounds, "max_nodes", what, "more of them")
            if packed * _GROWTH > bounds.max_memory:  # 4.
                grown = show_bytes(packed * _GROWTH)
                raise refuse_more(where, bounds, "max_memory", "bytes of packed numbers", f"{grown} once unpacked")
    except ValueError as error:
        raise refuse(
            where,
            "an ONNX model",
            f"bytes that do not parse (truncated or random): {error}",
            "copy or download it again",
        ) from error


def read_field(data: bytes | memoryview, place: int, stop: int) -> tuple[int, int, int, int]:
    """The field at ``place`` of a message that ends at ``stop``: number, wire type, end, and start of its value.

    Raises:
        ValueError: a field that ends behind its message, a number without an end, or an unknown wire type.
    """
    key = data[place]
    body = place + 1
    if key > 127:
        key, body = read_varint(data, place, stop)
    kind = key & 7
    if kind == BYTES:
        length = data[body] if body < stop else 128
        body += 1
        if length > 127:
            length, body = read_varint(data, body - 1, stop)
        end = body + length
    elif kind == VARINT:
        _, end = read_varint(data, body, stop)
    elif kind in _FIXED:
        end = body + _FIXED[kind]
    else:
        raise ValueError(f"wire type {kind}")
    if end > stop:
        raise ValueError("a field that ends behind its message")
    if key < 8:
        raise ValueError("a field of number 0")
    return key >> 3, kind, end, body


def walk(data: bytes | memoryview) -> Iterator[tuple[int, int, int, int]]:
    """Every field of a message as (number, start, end, start of its value).

    Raises:
        ValueError: see ``read_field``.
    """
    place, stop = 0, len(data)
    while place < stop:
        number, _, end, body = read_field(data, place, stop)
        yield number, place, end, body
        place = end


def read_varint(data: bytes | memoryview, place: int, stop: int) -> tuple[int, int]:
    """The number that starts at ``place``, and the place behind it.

    Raises:
        ValueError: it has no end, or takes more than ten bytes.
    """
    value = shift = 0
    while place < stop and shift < 70:
        byte = data[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7
    raise ValueError("a number without an end")
