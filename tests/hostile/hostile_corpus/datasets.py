"""Calibration and label sets gone wrong: images, CSV files and arrays that are not what their names say."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from hostile_corpus.building import CANARY, SIZE, Item


def encode(kind: str = "PNG", size: tuple[int, int] = (12, 12), seed: int = 0, **more: object) -> bytes:
    """A small image of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind, **more)
    return written.getvalue()


def lay_images(folder: Path) -> Path:
    """``data/0`` with one sound image; the class folder is returned."""
    inner = folder / "data" / "0"
    inner.mkdir(parents=True)
    (inner / "sound.png").write_bytes(encode())
    return inner


def image_item(name: str, file: str, data: bytes | Callable[[Path], None], harmless: str = "") -> Item:
    """A folder in which one image is sound and one is not."""

    def make(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(CANARY * 10)
        path = lay_images(folder) / file
        if callable(data):
            data(path)
        else:
            path.write_bytes(data)

    return Item(f"image: {name}", make, harmless=harmless, command="data")


def csv_item(name: str, text: str | bytes, harmless: str = "") -> Item:
    def make(folder: Path) -> None:
        (folder.parent / "secret.bin").write_bytes(CANARY * 10)
        lay_images(folder)
        content = text.encode() if isinstance(text, str) else text
        (folder / "data.csv").write_bytes(content.replace(b"SECRET", str(folder.parent / "secret.bin").encode()))

    return Item(f"csv: {name}", make, harmless=harmless, command="data.csv")


def array_item(name: str, make_bytes: Callable[[], bytes], harmless: str = "", file: str = "data.npz") -> Item:
    return Item(
        f"array: {name}", lambda folder: (folder / file).write_bytes(make_bytes()) and None, harmless, command=file
    )


def pack(**arrays: object) -> bytes:
    written = io.BytesIO()
    np.savez(written, **{key: np.asarray(value) for key, value in arrays.items()})
    return written.getvalue()


def batch(count: int = 3, kind: type = np.float32) -> np.ndarray:
    return np.random.default_rng(1).random((count, 3, SIZE, SIZE)).astype(kind)


def declare(shape: str, data: bytes = b"", descr: str = "'<f4'", extra: str = "") -> bytes:
    """A .npy file whose header says this."""
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}{extra}}}".encode()
    header += b" " * (63 - (len(header) + 10) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def zip_of(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return written.getvalue()


def png_of(width: int, height: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG that declares this size, with little data behind."""
    header = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    parts = [header, *chunks, (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in parts]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


class Touch:
    """Leaves the file ``owned`` behind when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch owned ../owned",)


def list_items() -> Iterator[Item]:
    yield from list_images()
    yield from list_csv()
    yield from list_arrays()
    yield Item("set: an empty folder", lambda folder: (folder / "data").mkdir(), command="data")
    yield Item("set: nothing there", lambda folder: None, command="data")
    yield Item("set: a device", lambda folder: (folder / "data.npz").symlink_to("/dev/zero"), command="data.npz")
    yield Item("set: a pipe", lambda folder: os.mkfifo(folder / "data.csv"), command="data.csv")
    yield Item(
        "set: another kind", lambda folder: (folder / "data.exe").write_bytes(b"MZ") and None, command="data.exe"
    )


def list_images() -> Iterator[Item]:
    jpeg, png = encode("JPEG"), encode()
    bomb = b"k\0\0" + zlib.compress(bytes(80 << 20), level=1)
    yield image_item("jpeg cut in half", "a.jpg", jpeg[: len(jpeg) // 2])
    yield image_item("jpeg cut in its header", "a.jpg", jpeg[:20])
    yield image_item("png cut in half", "a.png", png[: len(png) // 2])
    yield image_item("empty", "a.png", b"")
    yield image_item("html", "a.jpg", b"<html>not found</html>")
    yield image_item("lfs pointer", "a.jpg", b"version https://git-lfs.github.com/spec/v1\n")
    yield image_item("bomb of 2.5 gigapixels", "a.png", png_of(50_000, 50_000))
    yield image_item("bomb of 2^62 pixels", "a.png", png_of(2**31 - 1, 2**31 - 1))
    yield image_item("no pixels", "a.png", png_of(0, 0))
    yield image_item("bomb of text", "a.png", png_of(8, 8, (b"zTXt", bomb)))
    yield image_item("bomb of a profile", "a.png", png_of(8, 8, (b"iCCP", bomb)))
    yield image_item("long and thin", "a.png", encode(size=(60_000, 1)), "an image all the same")
    yield image_item("portable map of 10^10 pixels", "a.ppm", b"P6 100000 100000 255\n" + bytes(100))
    yield image_item("bitmap of -2^31 rows", "a.bmp", encode("BMP")[:22] + struct.pack("<i", -(2**31)) + bytes(40))
    yield image_item("tiff whose pages go in a circle", "a.tif", _make_circular_tiff())
    yield image_item("postscript", "a.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(touch owned) run\n")
    yield image_item("vector graphics", "a.png", b'<svg xmlns:x="x"><image href="file:///etc/passwd"/></svg>')
    yield image_item("a pickle", "a.png", pickle.dumps(Touch()))
    yield image_item("a link to a secret", "a.png", lambda path: path.symlink_to("../../../secret.bin"))
    yield image_item("a link to a device", "a.png", lambda path: path.symlink_to("/dev/zero"))
    yield image_item("a link to itself", "a.png", lambda path: path.symlink_to("a.png"))
    yield image_item("a pipe", "a.png", lambda path: os.mkfifo(path))
    yield image_item("a folder", "a.png", lambda path: path.mkdir(), "folders in class folders are not looked into")
    yield image_item("broken, with a name that is a weapon", "\x1b[2J\nerror: x\u202e.png", b"broken")


def list_csv() -> Iterator[Item]:
    row = "data/0/sound.png"
    yield csv_item("empty", "")
    yield csv_item("no header", f"{row},0\n")
    yield csv_item("header only", "file,label\n")
    yield csv_item("no label column", f"file\n{row}\n")
    yield csv_item("semicolons", f"file;label\n{row};0\n")
    for label in ("cat", "-1", "1.5", "", "1e3", "99", str(10**30), "nan", "0x1", "٣"):
        yield csv_item(f"label {label!r}", f"file,label\n{row},{label}\n")
    yield csv_item("the same image twice", f"file,label\n{row},0\n./{row},1\n")
    yield csv_item("a missing image", "file,label\nmissing.png,0\n")
    yield csv_item("a secret by absolute path", "file,label\nSECRET,0\n")
    yield csv_item("a secret by ..", "file,label\n../secret.bin,0\n")
    yield csv_item("a device", "file,label\n/dev/zero,0\n")
    yield csv_item("NUL", f"file,label\n{row}\0,0\n")
    yield csv_item("utf-16", f"file,label\n{row},0\n".encode("utf-16"))
    yield csv_item("latin-1", "file,label\ndätä/0.png,0\n".encode("latin-1"))
    yield csv_item("a quote without end", f'file,label\n"{row},0\n')
    yield csv_item("a field of 10 MB", f"file,label\n{'a' * 10_000_000},0\n")
    yield csv_item("too few columns", f"file,label\n{row}\n")


def list_arrays() -> Iterator[Item]:
    labels = [0, 1, 2]
    nan, inf = batch(), batch()
    nan[0, 0, 0, 0], inf[0, 0, 0, 0] = np.nan, np.inf
    yield array_item("NaN", lambda: pack(inputs=nan, labels=labels))
    yield array_item("infinity", lambda: pack(inputs=inf, labels=labels))
    yield array_item("constant", lambda: pack(inputs=np.ones((3, 3, SIZE, SIZE), np.float32), labels=labels))
    yield array_item("pickled images", lambda: pack(inputs=np.array([Touch()], object), labels=labels))
    yield array_item("pickled labels", lambda: pack(inputs=batch(), labels=np.array([Touch()] * 3, object)))
    yield array_item("float64", lambda: pack(inputs=batch(kind=np.float64), labels=labels))
    yield array_item("bytes", lambda: pack(inputs=np.zeros((3, 3, SIZE, SIZE), np.uint8), labels=labels))
    yield array_item("three axes", lambda: pack(inputs=batch()[0], labels=labels))
    yield array_item("another size", lambda: pack(inputs=batch()[:, :, :4], labels=labels))
    yield array_item("no rows", lambda: pack(inputs=batch()[:0], labels=[]))
    yield array_item("Fortran order", lambda: pack(inputs=np.asfortranarray(batch()), labels=labels))
    yield array_item("no labels", lambda: pack(inputs=batch()))
    yield array_item("labels of another length", lambda: pack(inputs=batch(), labels=[0]))
    yield array_item("labels that are no numbers", lambda: pack(inputs=batch(), labels=["a", "b", "c"]))
    yield array_item("labels that are no classes", lambda: pack(inputs=batch(), labels=[0, 1, 99]))
    yield array_item("negative labels", lambda: pack(inputs=batch(), labels=[0, -1, 1]))
    yield array_item("labels of 2^63", lambda: pack(inputs=batch(), labels=np.array([0, 1, 2**63], np.uint64)))
    yield array_item("cut", lambda: pack(inputs=batch(), labels=labels)[:-200])
    yield array_item("an empty archive", lambda: zip_of({}))
    yield array_item("no archive", lambda: b"PK\x03\x04" + bytes(100))
    bomb = declare("(300, 3, 8, 8)", bytes(300 * 192 * 4)) + bytes(64 << 20)
    yield array_item("more data than declared", lambda: zip_of({"inputs.npy": bomb, "labels.npy": b""}))
    yield array_item("less data than declared", lambda: zip_of({"inputs.npy": declare("(300, 3, 8, 8)", bytes(100))}))
    yield array_item("a size of 2^62", lambda: zip_of({"inputs.npy": declare("(4611686018427387904, 3, 8, 8)")}))
    yield array_item("a negative size", lambda: zip_of({"inputs.npy": declare("(-3, 3, 8, 8)")}))
    code = "__import__('os').system('touch owned')"
    yield array_item("code in the header", lambda: zip_of({"inputs.npy": declare(code)}))
    yield array_item("a header of another key", lambda: zip_of({"inputs.npy": declare("(1,)", extra=", 'x': 1")}))
    yield array_item("a member outside", lambda: zip_of({"../../owned": b"x", "inputs.npy": declare("(1,)")}))
    yield array_item("a plain pickle", lambda: pickle.dumps(Touch()), file="data.npy")
    yield array_item("a pickled plain array", lambda: declare("(1,)", pickle.dumps(Touch()), "'|O'"), file="data.npy")


def _make_circular_tiff() -> bytes:
    entry = struct.pack("<HHII", 256, 3, 1, 8)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 8)


ITEMS = list(list_items())
