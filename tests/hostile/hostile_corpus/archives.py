"""Golden outputs, calibration files and bundles packed to deceive: bombs, lies in headers, members that are none."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from hostile_corpus.building import CANARY, Item, save, sound_model
from hostile_corpus.datasets import declare, zip_of
from hostile_corpus.words import golden_bytes

MIB = 1 << 20
#: Commands are given these, so that bombs can be small.
LIMITS = ("--max-memory", "16MiB", "--max-file-size", "64MiB")
DEFLATED, STORED, LZMA, BZIP2 = zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2


# ---- golden.npz and calibration.npz ----------------------------------------------------------------


def swap_golden(compression: int = STORED, **members: bytes) -> bytes:
    """A sound golden.npz, but for these members."""
    with zipfile.ZipFile(io.BytesIO(golden_bytes())) as archive:
        sound = {name: archive.read(name) for name in archive.namelist()}
    return zip_of({**sound, **{f"{name}.npy": data for name, data in members.items()}}, compression)


def patch(data: bytes, **fields: int) -> bytes:
    """A zip archive of which every member says this of itself, in both places: ``flags`` or ``method``."""
    changed = bytearray(data)
    for signature, start in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = changed.find(signature)
        while at >= 0:
            for key, value in fields.items():
                struct.pack_into("<H", changed, at + start + 2 * ("flags", "method").index(key), value)
            at = changed.find(signature, at + 4)
    return bytes(changed)


def double(data: bytes) -> bytes:
    """A zip archive with a second member of the name of its first one."""
    written = io.BytesIO(data)
    with zipfile.ZipFile(written, "a") as archive:
        first = archive.infolist()[0]
        content = archive.read(first)
        info = zipfile.ZipInfo(first.filename)
        archive.NameToInfo.pop(first.filename)  # else zipfile warns of the second one
        archive.writestr(info, content)
    return written.getvalue()


def fill_directory(count: int) -> bytes:
    """A zip archive that is a directory of so many members, all of them the same."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * count
    return directory + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, len(directory), 0, 0)


def endless_header() -> bytes:
    """An array whose header says, in version 2, that it is 2 GiB long."""
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", 1 << 31) + b"{" + b" " * MIB


GOLDENS: dict[str, Callable[[], bytes]] = {
    "2^40 rows": lambda: swap_golden(input=declare(f"({2**40}, 3, 8, 8)", bytes(64))),
    "a bomb of one array": lambda: swap_golden(DEFLATED, input=declare(f"({8 * MIB}, 1, 1, 1)", bytes(32 * MIB))),
    "a bomb of many arrays": lambda: swap_golden(
        DEFLATED, **{f"output_{k}": declare(f"(4, {MIB // 2})", bytes(8 * MIB)) for k in range(3)}
    ),
    "a size that overflows": lambda: swap_golden(input=declare(f"({2**40}, {2**40}, 1, 1)", bytes(64))),
    "rows below zero": lambda: swap_golden(input=declare("(-1, -1, 4, 4)", bytes(64))),
    "2^40 texts of no width": lambda: swap_golden(names=declare(f"({2**40},)", descr="'<U0'")),
    "texts that fill the memory": lambda: swap_golden(DEFLATED, names=declare(f"({MIB},)", bytes(4 * MIB), "'<U1'")),
    "letters that do not exist": lambda: swap_golden(names=declare("(4,)", b"\xff" * 16, "'<U1'")),
    "a header of 2 GiB": lambda: swap_golden(DEFLATED, input=endless_header()),
    "a header that is nested": lambda: swap_golden(input=declare("-" * 5000 + "1")),
    "a header of another size": lambda: swap_golden(input=declare("(4, 3, 8, 8)", bytes(64))),
    "objects": lambda: swap_golden(names=declare("(4,)", b"\x80\x04N." * 4, "'|O'")),
    "a structure": lambda: swap_golden(names=declare("(4,)", bytes(32), "[('a', '|O')]")),
    "encrypted": lambda: patch(golden_bytes(), flags=1),
    "an unknown method": lambda: patch(golden_bytes(), method=97),
    "lzma, damaged": lambda: patch(swap_golden(DEFLATED), method=LZMA),
    "two of one name": lambda: double(golden_bytes()),
    "no array": lambda: swap_golden(input=b"text"),
    "a directory of 900,000": lambda: fill_directory(900_000),
}


# ---- bundles ---------------------------------------------------------------------------------------


def bundle_files(golden: bytes | None = None, **manifest: object) -> dict[str, bytes]:
    """The files of a sound bundle; its golden outputs are made up, so that its gates fail."""
    files = {"model.onnx": sound_model().SerializeToString(deterministic=True), "golden.npz": golden or golden_bytes()}
    told = {
        "name": "tiny",
        "models": [{"file": "model.onnx"}],
        "golden": "golden.npz",
        "budgets": {},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        **manifest,
    }
    return {f"tiny/{name}": data for name, data in {**files, "manifest.json": json.dumps(told).encode()}.items()}


def add_zip(compression: int = DEFLATED, **members: bytes) -> bytes:
    return zip_of({**bundle_files(), **{f"tiny/{name}": data for name, data in members.items()}}, compression)


def tar_of(files: Mapping[str, bytes], *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A .tar.gz of files, with members of other kinds behind them."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz", format=tarfile.PAX_FORMAT, compresslevel=1) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info, data in more:
            tar.addfile(info, io.BytesIO(data))
    return written.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, target
    return info


def raw_header(kind: bytes, size: int, name: str = "x") -> bytes:
    """A header as it is: tarfile itself would write what belongs to it."""
    return member(name, kind, size).tobuf(tarfile.GNU_FORMAT)


def claim_extension(size: int) -> bytes:
    """A .tar.gz whose first member has a pax header of this size, of zeros."""
    return gzip.compress(raw_header(tarfile.XHDTYPE, size) + bytes(4 * MIB), 1)


def claim_size(size: int) -> bytes:
    return gzip.compress(raw_header(tarfile.REGTYPE, size) + bytes(4 * MIB), 1)


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


BUNDLES: dict[str, Callable[[], bytes]] = {
    "encrypted.zip": lambda: patch(add_zip(), flags=1),
    "an unknown method.zip": lambda: patch(add_zip(), method=97),
    "lzma, damaged.zip": lambda: patch(add_zip(), method=LZMA),
    "bzip2, whole.zip": lambda: add_zip(BZIP2),
    "a bomb.zip": lambda: add_zip(big=bytes(80 * MIB)),
    "5,000 members.zip": lambda: zip_of({f"tiny/{k}": b"" for k in range(5_000)}, STORED),
    "a directory of 900,000.zip": lambda: fill_directory(900_000),
    "two of one name.zip": lambda: double(add_zip()),
    "a member without a name.zip": lambda: add_zip(nameless=b"x").replace(b"tiny/nameless", b"\0iny/nameless"),
    "data that do not match.zip": lambda: flip(add_zip(STORED), 200),
    "cut.zip": lambda: add_zip()[:-60],
    "above its folder.zip": lambda: zip_of({**bundle_files(), "../owned": b"x"}),
    "a name that is too long.zip": lambda: zip_of({**bundle_files(), f"tiny/{'n' * 300}": b"x"}),
    "a file that is a folder.zip": lambda: zip_of({**bundle_files(), "tiny/model.onnx/x": b"x"}),
    "a manifest that names a secret.zip": lambda: zip_of(
        bundle_files(golden=None, files={"../../secret.bin": hashlib.sha256(CANARY).hexdigest()}, golden_="")
    ),
    "a manifest with a zero byte.zip": lambda: zip_of(bundle_files(files={"model\0.onnx": "0"})),
    "a manifest that is nested.zip": lambda: zip_of({**bundle_files(), "tiny/manifest.json": b"[" * 100_000}),
    "a long manifest.zip": lambda: zip_of({**bundle_files(), "tiny/manifest.json": b" " * (17 * MIB)}),
    "golden outputs of 2^40 rows.zip": lambda: zip_of(bundle_files(GOLDENS["2^40 rows"]())),
    "a bomb.tar.gz": lambda: tar_of({**bundle_files(), "tiny/big": bytes(80 * MIB)}),
    "a member of 2^40 bytes.tar.gz": lambda: claim_size(1 << 40),
    "a header of 4 GiB.tar.gz": lambda: claim_extension(4 << 30),
    "headers upon headers.tar.gz": lambda: gzip.compress(raw_header(tarfile.XHDTYPE, 0) * 20_000, 1),
    "a sparse member.tar.gz": lambda: gzip.compress(raw_header(tarfile.GNUTYPE_SPARSE, 512) + bytes(4096), 1),
    "5,000 members.tar.gz": lambda: tar_of({f"tiny/{k}": b"" for k in range(5_000)}),
    "a link to a secret.tar.gz": lambda: tar_of(
        bundle_files(), (member("tiny/a.json", tarfile.SYMTYPE, target="../../secret.bin"), b"")
    ),
    "a hard link.tar.gz": lambda: tar_of(
        bundle_files(), (member("tiny/a.json", tarfile.LNKTYPE, target="/etc/passwd"), b"")
    ),
    "a device.tar.gz": lambda: tar_of(bundle_files(), (member("tiny/a.json", tarfile.CHRTYPE), b"")),
    "above its folder.tar.gz": lambda: tar_of({**bundle_files(), "tiny/../../owned": b"x"}),
    "cut.tar.gz": lambda: tar_of(bundle_files())[:-200],
    "no gzip.tar.gz": lambda: b"\x1f\x8b\x08\x00" + b"\xff" * 400,
}


def list_items() -> Iterator[Item]:
    for name, data in GOLDENS.items():
        yield _item(f"golden.npz: {name}", "golden.npz", data)
        yield _item(f"calibration.npz: {name}", "calibration.npz", data)
    for name, data in BUNDLES.items():
        stem, _, ending = name.partition(".")
        yield _item(f"bundle.{ending}: {stem}", f"bundle.{ending}", data)


def _item(name: str, file: str, data: Callable[[], bytes]) -> Item:
    def make(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(CANARY)
        save(sound_model(), folder)
        (folder / file).write_bytes(data())

    return Item(name, make, command=file)


ITEMS = list(list_items())
assert np.dtype("<U1").itemsize == 4  # what texts of GOLDENS are counted in
