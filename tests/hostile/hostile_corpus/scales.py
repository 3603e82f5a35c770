"""Q/DQ scales and zero points that are no scales, and names and metadata that are weapons."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from hostile_corpus.building import Item, item, sound_model, wrap


def quantize(scale: object, zero: object, **attributes: object) -> onnx.ModelProto:
    """The image through one Q/DQ pair."""
    return wrap(
        [
            helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"], "q", **attributes),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["h"], "dq", **attributes),
        ],
        {"s": np.asarray(scale), "z": np.asarray(zero)},
    )


def rename(new: str, *olds: str) -> onnx.ModelProto:
    """The sound model with names replaced wherever they stand."""
    model = sound_model()
    for old in olds:
        rename_one(model, old, new)
    return model


def rename_one(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.name = new if node.name == old else node.name
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new if value.name == old else value.name


def tell(key: str, text: str) -> onnx.ModelProto:
    model = sound_model()
    model.metadata_props.add(key=key, value=text)
    return model


_NAMES = {
    "escape sequences": "\x1b[2J\x1b]0;owned\x07",
    "new lines": "a\nerror: all is well\n",
    "html": "<script>alert(1)</script>",
    "shell": "$(touch /tmp/owned); `id`",
    "path": "../../../../etc/passwd",
    "right to left": "\u202egnp.exe",
    "a megabyte": "n" * 1_000_000,
    "format": "{0.__class__} %s%n%n",
    "markup": "[bold red]x[/] [link=http://x]y[/link]",
}
_SOUND = "the graph is the sound one under another name"


def list_items() -> Iterator[Item]:
    for value in (float("nan"), float("inf"), 0.0, -1.0, 1e-45, 3e38):
        yield item(f"scale {value}", quantize(np.float32(value), np.uint8(128)))
    yield item("scale of three values", quantize(np.ones(3, np.float32), np.full(3, 128, np.uint8), axis=1))
    yield item("scale of the wrong length", quantize(np.ones(7, np.float32), np.full(7, 128, np.uint8), axis=1))
    yield item("scale on axis 99", quantize(np.ones(3, np.float32), np.zeros(3, np.uint8), axis=99))
    yield item("zero point of another type", quantize(np.float32(1), np.int32(5)))
    yield item("zero point of another shape", quantize(np.float32(1), np.zeros(3, np.uint8)))
    yield item("scale without elements", quantize(np.zeros(0, np.float32), np.zeros(0, np.uint8)))
    for word, text in _NAMES.items():
        yield item(f"names of a node and its weights: {word}", rename(text, "conv", "w"), harmless=_SOUND)
        yield item(f"name of the output: {word}", rename(text, "logits"), harmless=_SOUND)
    texts = {
        "no JSON": "{",
        "another type": '{"size": "large"}',
        "deep": "[" * 100_000,
        "path": '"../../../etc/passwd"',
    }
    for word, text in texts.items():
        for key in ("mbdeploy.preprocess", "mbdeploy.labels"):
            yield item(f"{key}: {word}", tell(key, text))
    for key in ("mbdeploy.card", "mbdeploy.stage", "mbdeploy.provenance"):
        harmless = "where a file says it comes from decides nothing; its content is judged"
        yield item(f"{key}: path", tell(key, texts["path"]), harmless=harmless)
