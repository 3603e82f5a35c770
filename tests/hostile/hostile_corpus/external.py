"""External data that lead out of the model's folder, by path or by link, or that are not what they say."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from hostile_corpus.building import CANARY, Item, make_kernel, save, sound_model

_DATA = make_kernel().tobytes()
#: As long as the weights, so that it would be read as such.
SECRET = (CANARY * 20)[: len(_DATA)]


def external_item(
    name: str, entries: Mapping[str, str], prepare: Callable[[Path], None] | None = None, harmless: str = ""
) -> Item:
    """The convolution's weights lie elsewhere; ``prepare`` makes what lies there. The secret is in ../secret.bin."""

    def make(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(SECRET)
        model = sound_model()
        tensor = next(one for one in model.graph.initializer if one.name == "w")
        tensor.ClearField("raw_data")
        tensor.data_location = 1
        for key, value in entries.items():
            tensor.external_data.add(key=key, value=value.replace("SECRET", str(folder.parent / "secret.bin")))
        save(model, folder)
        if prepare is not None:
            prepare(folder)

    return Item(name, make, harmless=harmless)


def write_data(folder: Path) -> None:
    (folder / "w.bin").write_bytes(_DATA)


def list_items() -> Iterator[Item]:
    whole = {"location": "w.bin", "offset": "0", "length": str(len(_DATA))}
    yield external_item("external and sound", whole, write_data, "these are the weights themselves")
    for name, location in {
        "external by ..": "../secret.bin",
        "external by a/../..": "a/../../secret.bin",
        "external by absolute path": "SECRET",
        "external by ./..": "./../secret.bin",
        "external by backslash": "..\\secret.bin",
        "external with NUL": "w.bin\0../secret.bin",
        "external by URL": "file://SECRET",
        "external without a location": "",
        "external in the folder itself": ".",
        "external in memory": "*/_ORT_MEM_ADDR_/*",
        "external in /proc": "/proc/self/environ",
        "external in a device": "/dev/zero",
        "external missing": "missing.bin",
        "external of a very long name": "a" * 5000,
        "external of control characters": "\x1b[2J\x1b[31m\u202e.bin",
    }.items():
        yield external_item(name, {"location": location, "length": str(len(_DATA))})
    yield external_item("external by symbolic link", whole, lambda f: (f / "w.bin").symlink_to("../secret.bin"))
    yield external_item("external by hard link", whole, lambda f: os.link(f.parent / "secret.bin", f / "w.bin"))
    yield external_item("external below a linked folder", {**whole, "location": "d/secret.bin"}, _link_folder)
    yield external_item("external a pipe", whole, lambda f: os.mkfifo(f / "w.bin"))
    yield external_item("external a folder", whole, lambda f: (f / "w.bin").mkdir())
    yield external_item("external a link in a circle", whole, lambda f: (f / "w.bin").symlink_to("w.bin"))
    yield external_item("external sparse", {"location": "w.bin", "length": str(len(_DATA))}, _write_sparse)
    for name, change in {
        "offset behind the end": {"offset": "1000000"},
        "offset of 2^63 - 1": {"offset": str(2**63 - 1)},
        "offset of 2^64 - 16": {"offset": str(2**64 - 16)},
        "offset negative": {"offset": "-8"},
        "offset as text": {"offset": "here"},
        "offset in hexadecimal": {"offset": "0x10"},
        "length too long": {"length": str(len(_DATA) + 4)},
        "length too short": {"length": "4"},
        "length of 2^63 - 1": {"length": str(2**63 - 1)},
        "length negative": {"length": "-1"},
        "key unknown": {"steal": "yes"},
    }.items():
        yield external_item(f"external {name}", {**whole, **change}, write_data)
    yield external_item("external in the model itself", {**whole, "location": "model.onnx"}, None)


def _link_folder(folder: Path) -> None:
    (folder / "d").symlink_to("..", target_is_directory=True)


def _write_sparse(folder: Path) -> None:
    with (folder / "w.bin").open("wb") as file:
        file.truncate(3 << 30)
