"""Bytes that are no protobuf, no ONNX, or that a parser makes far more of than they are."""

from __future__ import annotations

import io
import pickle
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

from hostile_corpus.building import Item, raw_item, sound_model


def varint(value: int) -> bytes:
    written = bytearray()
    while value > 127:
        written.append(value & 127 | 128)
        value >>= 7
    return bytes([*written, value])


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def nest(levels: int) -> bytes:
    """Graphs within attributes of nodes of graphs."""
    graph = b""
    for _ in range(levels):
        graph = field(1, field(4, b"If") + field(5, field(1, b"then_branch") + field(6, graph)))
    return field(7, graph) + field(8, b"\x10\x12")


def list_items() -> Iterator[Item]:
    sound = sound_model().SerializeToString(deterministic=True)
    rng = random.Random(0)
    yield raw_item("empty", b"")
    yield raw_item("one zero", b"\0")
    yield raw_item("zeros", bytes(4096))
    yield raw_item("ones", b"\xff" * 4096)
    yield raw_item("random", rng.randbytes(4096))
    yield raw_item("html", b"<!DOCTYPE html><html>")
    yield raw_item("lfs pointer", b"version https://git-lfs.github.com/spec/v1\n")
    yield raw_item("pickle", pickle.dumps({"a": 1}, 2))
    yield raw_item("zip", _zip())
    for share in (0.1, 0.5, 0.9, 0.999):
        yield raw_item(f"cut at {share}", sound[: int(len(sound) * share)])
    yield raw_item("varint without end", b"\x08" + b"\xff" * 11)
    yield raw_item("varint cut", b"\x08\xff")
    yield raw_item("length beyond the file", b"\x3a" + varint(2**31 - 1) + b"x")
    yield raw_item("length of 2^63", b"\x3a" + varint(2**63) + b"x")
    yield raw_item("length of 2^64 - 1", b"\x3a" + varint(2**64 - 1) + b"x")
    yield raw_item("group start", b"\x3b" * 100)
    yield raw_item("wire type 7", b"\x3f\x00")
    yield raw_item("field number 0", b"\x02\x01a" + sound)
    for levels in (20, 40, 200, 5000):
        yield raw_item(f"nested {levels} levels", nest(levels))
    yield raw_item("a million empty nodes", field(7, b"\x0a\x00" * 1_000_000) + field(8, b"\x10\x12"))
    yield raw_item("a million opset imports", sound + b"\x42\x00" * 1_000_000)
    yield raw_item("six million unknown fields", sound + b"\xa0\x06\x01" * 6_000_000)
    yield raw_item("no opset", field(7, field(1, field(4, b"Relu"))))
    yield raw_item("no graph", field(8, b"\x10\x12"))
    yield raw_item("text in place of a graph", field(7, b"not a graph at all, but text"))
    yield raw_item("invalid utf-8 in a name", sound.replace(b"logits", b"log\xff\xfes"))
    yield raw_item("twice", sound + sound)
    yield raw_item("bytes behind", sound + b"trailing garbage")
    yield Item("a folder", lambda folder: (folder / "model.onnx").mkdir())
    yield Item("a pipe", _make_pipe)
    yield Item("a device", lambda folder: (folder / "model.onnx").symlink_to("/dev/zero"))
    yield Item("nothing there", lambda folder: None)
    yield Item("a link to itself", lambda folder: (folder / "model.onnx").symlink_to(folder / "model.onnx"))
    yield Item("a sparse file of 3 GB", _make_sparse)


def _make_pipe(folder: Path) -> None:
    import os

    os.mkfifo(folder / "model.onnx")


def _make_sparse(folder: Path) -> None:
    with (folder / "model.onnx").open("wb") as file:
        file.truncate(3 << 30)


def _zip() -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return written.getvalue()
