"""Cards that lie, and sidecars, golden outputs, ranges and results that were edited by hand."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hostile_corpus.building import CANARY, CLASSES, SIZE, Item, save, sound_model

CARD = """
name = "tiny"
summary = "for this test"
net = "mobilenet_v1"
args = { alpha = 0.25 }
weights = { seed = 0 }
preprocess = { size = 32 }
"""
_DEEP = "[" * 5000 + "]" * 5000


def card_item(name: str, text: str | bytes, command: str = "show", harmless: str = "") -> Item:
    def make(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(CANARY)
        (folder / "payload.py").write_text("import os; os.system('touch owned ../owned')\ndef make(): return 1\n")
        (folder / "card.toml").write_bytes(text.encode() if isinstance(text, str) else text)

    return Item(f"card: {name}", make, harmless=harmless, command=command)


def swap(old: str, new: str) -> str:
    """The sound card with one part replaced."""
    assert old in CARD
    return CARD.replace(old, new)


def list_cards() -> Iterator[Item]:
    seeded = "weights = { seed = 0 }"
    yield card_item("empty", "")
    yield card_item("bytes", bytes(range(256)))
    yield card_item("utf-16", CARD.encode("utf-16"))
    yield card_item(
        "a megabyte of text", f"{CARD}\nlicence = '{'x' * 1_000_000}'", harmless="long, and all there is to it"
    )
    yield card_item("nested arrays", f"{CARD}\nx = {_DEEP}")
    yield card_item("nested tables", f"{CARD}\n[{'.'.join('a' * 5000)}]")
    yield card_item("unknown field", f"{CARD}\nsteal = true")
    yield card_item("a key twice", f"{CARD}\nname = 'other'")
    for name, new in {
        "name of another folder": 'name = "../../escape"',
        "name by absolute path": 'name = "/tmp/escape"',
        "name of control characters": 'name = "a\\u001b[2J"',
        "name of nothing": 'name = ""',
        "name of a megabyte": f'name = "{"n" * 1_000_000}"',
        "name is a number": "name = 5",
    }.items():
        yield card_item(name, swap('name = "tiny"', new))
    for name, new in {
        "unknown net": 'net = "skynet"',
        "net with a module": 'net = "os:system"',
        "factory without trust": 'factory = "payload:make"',
        "net and factory": 'net = "mobilenet_v1"\nfactory = "payload:make"',
    }.items():
        yield card_item(name, swap('net = "mobilenet_v1"', new), "export")
    for name, new in {
        "negative seed": "weights = { seed = -1 }",
        "huge seed": f"weights = {{ seed = {2**70} }}",
        "no weights": "",
        "two sources": 'weights = { seed = 0, file = "w.pt", sha256 = "0" }',
        "weights without sha256": 'weights = { file = "w.pt" }',
        "weights by ..": f'weights = {{ file = "../secret.bin", sha256 = "{"0" * 64}" }}',
        "weights in a device": f'weights = {{ file = "/dev/zero", sha256 = "{"0" * 64}" }}',
        "weights in a package by ..": f'weights = {{ package = "json", file = "../os.py", sha256 = "{"0" * 64}" }}',
        "a package that is code": f'weights = {{ package = "payload", file = "x", sha256 = "{"0" * 64}" }}',
    }.items():
        yield card_item(name, swap(seeded, new), "export")
    for name, new in {
        "alpha of NaN": "args = { alpha = nan }",
        "alpha of 10^9": "args = { alpha = 1e9 }",
        "alpha of -1": "args = { alpha = -1.0 }",
        "alpha of text": 'args = { alpha = "__import__" }',
        "unknown argument": "args = { beta = 1 }",
    }.items():
        yield card_item(name, swap("args = { alpha = 0.25 }", new), "export")
    for name, new in {
        "size of 0": "preprocess = { size = 0 }",
        "size of 2^40": f"preprocess = {{ size = {2**40} }}",
        "std of 0": "preprocess = { size = 32, std = [0.0, 1.0, 1.0] }",
        "std of NaN": "preprocess = { size = 32, std = [nan, 1.0, 1.0] }",
        "mean of NaN": "preprocess = { size = 32, mean = [nan, 1.0, 1.0] }",
        "mean of infinity": "preprocess = { size = 32, mean = [inf, 1.0, 1.0] }",
        "resize of 2^60": f"preprocess = {{ size = 32, resize = {2**60} }}",
    }.items():
        yield card_item(name, swap("preprocess = { size = 32 }", new))


def golden_bytes(**changes: Any) -> bytes:
    """golden.npz of made-up images and logits, with arrays replaced (or left out, where None)."""
    rng = np.random.default_rng(3)
    arrays: dict[str, Any] = {
        "input": rng.normal(0, 1, (4, 3, SIZE, SIZE)).astype(np.float32),
        "output_0": rng.normal(0, 1, (4, CLASSES)).astype(np.float32),
        "output_names": np.array(["logits"]),
        "names": np.array(list("abcd")),
    }
    arrays = {key: value for key, value in {**arrays, **changes}.items() if value is not None}
    written = io.BytesIO()
    np.savez(written, **arrays)
    return written.getvalue()


def file_item(name: str, file: str, data: bytes | Callable[[], bytes], command: str, harmless: str = "") -> Item:
    """The sound model with a file beside it."""

    def make(folder: Path) -> None:
        save(sound_model(), folder)
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data() if callable(data) else data)

    return Item(f"{file}: {name}", make, harmless=harmless, command=command)


class Touch:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned ../owned",)


def list_edited() -> Iterator[Item]:
    full = np.full((4, CLASSES), np.nan, np.float32)
    goldens: dict[str, Callable[[], bytes]] = {
        "random outputs": golden_bytes,
        "NaN": lambda: golden_bytes(output_0=full),
        "constant": lambda: golden_bytes(output_0=np.zeros((4, CLASSES), np.float32)),
        "no outputs": lambda: golden_bytes(output_0=None),
        "no images": lambda: golden_bytes(input=None),
        "fewer outputs": lambda: golden_bytes(output_0=np.ones((2, CLASSES), np.float32)),
        "other classes": lambda: golden_bytes(output_0=np.random.default_rng(0).random((4, 9), np.float32)),
        "pickled": lambda: golden_bytes(names=np.array([Touch()] * 4, object)),
        "text": lambda: golden_bytes(output_0=np.array([["a"] * CLASSES] * 4)),
        "empty": lambda: b"",
        "cut": lambda: golden_bytes()[:-300],
        "complex": lambda: golden_bytes(output_0=np.ones((4, CLASSES), np.complex64)),
        "scalars": lambda: golden_bytes(names=np.float32(1), output_names=np.float32(1)),
    }
    for name, make in goldens.items():
        yield file_item(name, "golden.npz", make, "verify")
    ignored = "a sidecar that cannot be read vouches for nothing, and inspection does not need it"
    for name, text in _SIDECARS.items():
        yield file_item(name, "model.onnx.json", text.encode(), "inspect", ignored)
    for name, value in _RANGES.items():
        data = (value if isinstance(value, str) else json.dumps(value)).encode()
        yield file_item(name, "ranges.json", data, "ranges")
    for name, text in {**_SIDECARS, "a list": "[]", "null": "null"}.items():
        yield file_item(name, "results/parity.json", text.encode(), "report")
        yield file_item(name, "results/latency.json", text.encode(), "report")


def _sidecar(**changes: Any) -> str:
    provenance = {"stage": "quantize", "params": {}, "parents": {}, "tools": {}}
    sound = {"file": "model.onnx", "sha256": "0" * 64, "size_bytes": 1, "key": "0", "provenance": provenance}
    return json.dumps({**sound, "record": None, "schema_version": 1, **changes})


_SIDECARS = {
    "no JSON": "{",
    "nested": "[" * 100_000 + "]" * 100_000,
    "nested in a field": _sidecar().replace("null", "[" * 50_000 + "]" * 50_000),
    "numbers as text": _sidecar(size_bytes="many"),
    "a record of another kind": _sidecar(record={"layers": [{"node": 5}]}),
    "a record that is null": _sidecar(),
    "a negative size": _sidecar(size_bytes=-1),
    "a size of 2^80": _sidecar(size_bytes=2**80),
    "another schema": _sidecar(schema_version=99),
    "another stage": _sidecar(provenance={"stage": "\x1b[2J", "params": {}, "parents": {}, "tools": {}}),
    "not utf-8": "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"),
}
_RANGES: dict[str, Any] = {
    "no JSON": "{",
    "nested": "[" * 100_000 + "]" * 100_000,
    "empty": {},
    "a list": [],
    "of another model": {"nowhere": [0, 1]},
    "NaN": '{"image": [NaN, NaN], "logits": [NaN, 1]}',
    "infinite": '{"image": [-1e999, 1e999], "logits": [0, 1]}',
    "text": {"image": ["a", "b"], "logits": ["a", "b"]},
    "the wrong way round": {name: [1, -1] for name in ("image", "h", "pooled", "flat", "logits")},
    "without width": {name: [0, 0] for name in ("image", "h", "pooled", "flat", "logits")},
}
CARDS, EDITED = list(list_cards()), list(list_edited())
