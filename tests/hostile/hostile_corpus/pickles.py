"""Weights files that want to run code when they are loaded: payloads, and the containers that carry them."""

from __future__ import annotations

import functools
import importlib
import io
import operator
import os
import pathlib
import pickle
import runpy
import shutil
import subprocess
import sys
import tarfile
import types
import webbrowser
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_TOUCH = "touch owned ../owned"
_CODE = "import os; os.system('touch owned ../owned')"


class Call:
    """Pickled as a call of ``function`` with ``args``."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def name_global(module: str, name: str, *args: bytes) -> bytes:
    """A pickle by hand that calls ``module.name`` with text arguments: for names that cannot be imported here."""
    text = b"".join(b"V" + arg + b"\n" for arg in args)
    return f"c{module}\n{name}\n".encode() + b"(" + text + b"tR."


def grow() -> bytes:
    """A few bytes that become 2^40 references."""
    body = b"\x80\x02](lp0\n"
    for level in range(40):
        body += b"]" + f"p{level + 1}\n".encode() + f"(g{level}\ng{level}\ne".encode()
    return body + b"."


def make_payloads() -> dict[str, bytes]:
    """Name -> a pickle that would leave a file ``owned``, or exhaust who loads it."""
    calls: dict[str, Any] = {
        "os.system": Call(os.system, _TOUCH),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", "owned"]),
        "subprocess.call": Call(subprocess.call, _TOUCH, None, None, None, None, None),
        "eval": Call(eval, "__import__('os').system('touch owned')"),
        "exec": Call(exec, _CODE),
        "open for writing": Call(open, "owned", "w"),
        "Path.touch": Call(pathlib.Path.touch, pathlib.PurePosixPath("owned")),
        "shutil.copyfile": Call(shutil.copyfile, "/etc/hostname", "owned"),
        "import_module": Call(importlib.import_module, "antigravity"),
        "nested pickle": Call(pickle.loads, pickle.dumps(Call(os.system, _TOUCH))),
        "partial": Call(functools.partial, os.system, _TOUCH),
        "methodcaller": Call(operator.methodcaller, "system", _TOUCH),
        "runpy": Call(runpy.run_path, "payload.py"),
        "FunctionType": Call(types.SimpleNamespace),
        "webbrowser": Call(webbrowser.open, "file:///etc/passwd"),
        "sys.exit": Call(sys.exit, 0),
        "os.kill": Call(os.kill, 0, 0),
        "in a list in a dict": {"weight": [1, 2, {"x": Call(os.system, _TOUCH)}]},
        "as a key": {"state_dict": {"a": Call(os.system, _TOUCH)}},
    }
    return {name: pickle.dumps(value, 2) for name, value in calls.items()} | {
        "posix.system by hand": name_global("posix", "system", _TOUCH.encode()),
        "torch.load nested": name_global("torch.serialization", "load", b"owned"),
        "torch storage from bytes": name_global("torch.storage", "_load_from_bytes", b"x"),
        "torch jit": name_global("torch.jit", "load", b"owned"),
        "torch hub": name_global("torch.hub", "load", b"a/b", b"c"),
        "numpy load": name_global("numpy", "load", b"owned"),
        "getattr": name_global("builtins", "getattr", b"x", b"__class__"),
        "dotted name": name_global("os", "path.os.system", _TOUCH.encode()),
        "a module that is not there": name_global("no_such_module_at_all", "f", b"x"),
        "growing": grow(),
        "deep": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
        "a number of a megabyte": b"\x80\x02\x8b" + (1_000_000).to_bytes(4, "little") + b"\x7f" * 1_000_000 + b".",
        "a string of 2^63 bytes": b"\x80\x04\x8d" + (2**63 - 1).to_bytes(8, "little") + b"x",
        "cut": pickle.dumps({"a": 1}, 2)[:-3],
        "not a dict": pickle.dumps([1, 2, 3], 2),
        "a dict of numbers": pickle.dumps({"weight": 1}, 2),
    }


def as_torch_zip(payload: bytes) -> bytes:
    """What torch.save writes."""
    return _zip({"archive/data.pkl": payload, "archive/byteorder": b"little", "archive/version": b"3\n"})


def as_legacy(payload: bytes) -> bytes:
    """What torch.save wrote before 1.6: magic number, protocol, system, then the object."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}]
    return b"".join(pickle.dumps(part, 2) for part in head) + payload + pickle.dumps([], 2)


def as_plain_zip(payload: bytes) -> bytes:
    """A zip archive with members that torch does not expect, one of which wants to leave its folder."""
    return _zip({"../../owned": b"x", "data.pkl": payload, "archive/code/x.py": _CODE.encode()})


def as_tar(payload: bytes) -> bytes:
    """torch.save's first format."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name in ("storages", "tensors", "pickle", "../owned"):
            member = tarfile.TarInfo(name)
            member.size = len(payload)
            archive.addfile(member, io.BytesIO(payload))
    return written.getvalue()


def as_program(payload: bytes) -> bytes:
    """What torch.export.save writes, with the payload wherever it unpickles."""
    names = ("data/weights/weights.pt", "data/constants/model.pt", "data/sample_inputs/model.pt", "data.pkl")
    inner = as_torch_zip(payload)
    members = {f"archive/{name}": payload if name == "data.pkl" else inner for name in names}
    return _zip(
        {**members, "archive/models/model.json": b"{}", "archive/version": b"0", "archive/archive_format": b"pt2"}
    )


#: Container -> the file's name and how a payload is packed.
CONTAINERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "pt": ("weights.pt", as_torch_zip),
    "pth": ("weights.pth", as_legacy),
    "zip": ("weights.pt", as_plain_zip),
    "tar": ("weights.pth", as_tar),
    "pt2": ("program.pt2", as_program),
}


def write_payload(folder: Path, container: str, payload: bytes) -> Path:
    name, pack = CONTAINERS[container]
    path = folder / name
    path.write_bytes(pack(payload))
    return path


def _zip(members: dict[str, bytes]) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()
