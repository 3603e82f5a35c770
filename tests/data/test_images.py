"""Decoding and preprocessing of one image: every odd kind of file is converted correctly or refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mbdeploy.card import Preprocess
from mbdeploy.data import prepare_image
from mbdeploy.data.images import MAX_PIXELS, decode_image, prepare_pixels
from mbdeploy.errors import DataError

RAW = Preprocess(size=2, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="nearest")


def encode(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    file.seek(0)
    return file


def pixels_of(image: Image.Image, kind: str = "PNG", **options: Any) -> np.ndarray:
    return np.asarray(decode_image(encode(image, kind, **options)))


def png(width: int, height: int, depth: int, color: int, data: bytes = b"") -> io.BytesIO:
    """A PNG written by hand: Pillow cannot save every kind, and a bomb needs no pixels."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))]
    chunks += [(b"IDAT", zlib.compress(data)), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + body)


def test_a_grey_image_becomes_three_equal_channels() -> None:
    grey = np.array([[0, 100], [200, 255]], np.uint8)
    tensor = prepare_image(encode(Image.fromarray(grey)), RAW)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    for channel in tensor:
        np.testing.assert_array_equal(channel, grey)


def test_a_colour_image_becomes_luma_for_a_net_of_one_channel() -> None:
    grey = Preprocess(size=1, channels=1, mean=(0.0,), std=(1.0,))
    tensor = prepare_image(encode(Image.new("RGB", (1, 1), (10, 20, 30))), grey)
    assert tensor.shape == (1, 1, 1)
    assert tensor[0, 0, 0] == round(0.299 * 10 + 0.587 * 20 + 0.114 * 30)


def test_transparent_pixels_are_blended_over_white() -> None:
    rgba = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    assert pixels_of(Image.fromarray(rgba)).tolist() == [[[255, 0, 0], [255, 255, 255], [127, 127, 127]]]
    grey_alpha = np.array([[[40, 255], [40, 0]]], np.uint8)
    assert pixels_of(Image.fromarray(grey_alpha)).tolist() == [[[40, 40, 40], [255, 255, 255]]]


def test_a_palette_becomes_its_colours_and_its_transparent_entry_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert pixels_of(image).tolist() == [[[10, 20, 30], [40, 50, 60]]]
    assert pixels_of(image, transparency=1).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert pixels_of(image, "GIF").tolist() == [[[10, 20, 30], [40, 50, 60]]]


def test_the_first_picture_of_an_animation_counts() -> None:
    frames = [Image.new("P", (2, 2), colour) for colour in (0, 1)]
    for frame in frames:
        frame.putpalette([200, 0, 0, 0, 200, 0])
    pixels = pixels_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels[0, 0].tolist() == [200, 0, 0]


def test_black_and_white_of_one_bit_becomes_0_and_255() -> None:
    assert pixels_of(Image.fromarray(np.array([[True, False]]))).tolist() == [[[255] * 3, [0] * 3]]


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    pixels = pixels_of(Image.new("CMYK", (8, 8), (255, 0, 0, 0)), kind)
    assert np.abs(pixels.astype(int) - [0, 255, 255]).max() <= 3


def test_16_bit_grey_is_scaled_by_257_and_not_clipped() -> None:
    values = np.array([[0, 128, 129, 257], [300, 32768, 65407, 65535]], np.uint16)
    expected = [[0, 0, 1, 1], [1, 128, 255, 255]]  # round(value / 257)
    assert pixels_of(Image.fromarray(values))[..., 0].tolist() == expected
    assert pixels_of(Image.fromarray(values), "TIFF")[..., 2].tolist() == expected
    big_endian = Image.frombytes("I;16B", (4, 2), values.astype(">u2").tobytes())
    assert pixels_of(big_endian, "TIFF")[..., 0].tolist() == expected
    pgm = io.BytesIO(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    assert np.asarray(decode_image(pgm))[..., 1].tolist() == expected


def test_16_bit_colour_is_scaled_to_8_bits_within_one() -> None:
    values = np.array([0, 300, 40000, 65535, 128, 129], np.uint16)
    pixels = np.asarray(decode_image(png(2, 1, 16, 2, b"\0" + values.astype(">u2").tobytes())))
    assert np.abs(pixels.reshape(-1).astype(int) - np.rint(values / 257)).max() <= 1
    assert pixels.max() == 255


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_pixels_are_refused_because_no_rule_gives_their_range(mode: str) -> None:
    with pytest.raises(DataError, match=f"32-bit pixels .mode {mode}"):
        decode_image(encode(Image.new(mode, (2, 2), 70000), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_upright(orientation: int, kind: str) -> None:
    upright = np.zeros((16, 24), np.uint8)
    upright[:8, :8] = 255  # white top left corner
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = pixels_of(Image.fromarray(np.ascontiguousarray(stored)).convert("RGB"), kind, exif=exif)
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels[..., 0].astype(int) - upright).max() < 64


def test_damaged_exif_leaves_the_picture_as_it_lies() -> None:
    assert pixels_of(Image.new("RGB", (4, 2)), "JPEG", exif=b"Exif\0\0no TIFF header at all").shape == (2, 4, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_a_truncated_image_is_refused_with_its_name(kind: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = tmp_path / f"half of it.{kind.lower()}"
    whole = encode(Image.fromarray(noise), kind).getvalue()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError) as caught:
        prepare_image(path, RAW)
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"<!DOCTYPE html><html></html>", "HTML or XML text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer instead of the image"),
        (b"\x13\x37" * 50, "bytes that are no image of these formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "bytes that are no image of these formats"),
    ],
)
def test_a_file_that_is_no_image_is_refused_with_what_it_is(content: bytes, found: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        prepare_image(path, RAW)
    assert (caught.value.where, caught.value.found) == (str(path), found)


def test_a_missing_image_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        prepare_image(tmp_path / "gone.png", RAW)


# Below Pillow's own limit, at its warning, and at its error: none of them may leak.
@pytest.mark.parametrize("side", [8001, 10_000, 50_000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(side: int, tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(side, side, 8, 2).getvalue())
    with pytest.raises(DataError, match="64,000,000 pixels") as caught:
        prepare_image(path, RAW)
    assert caught.value.where == str(path)


def test_a_sliver_that_would_grow_past_the_limit_is_refused() -> None:
    sliver = encode(Image.new("L", (1, 5000)))
    with pytest.raises(DataError, match="224 x 1120000"):
        prepare_image(sliver, Preprocess(size=224, resize=224))
    assert MAX_PIXELS < 224 * 1_120_000


@pytest.mark.parametrize("name", ["a b.png", 'it\'s "one".png', "照片.png"])
def test_a_file_name_may_hold_spaces_quotes_and_chinese_characters(name: str, tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / name)
    assert prepare_image(str(tmp_path / name), RAW)[:, 0, 0].tolist() == [1, 2, 3]


def test_resizing_and_cropping_give_the_values_worked_out_by_hand() -> None:
    # Rows of 0, 30, 60, ... 210, 4 x 8 pixels: the short side becomes 2, the long one 4. To halve, Pillow's
    # bilinear filter weighs four pixels with 1/8 3/8 3/8 1/8; at an edge three, renormalised: 3/7 3/7 1/7.
    # Second value: (30 + 3 * 60 + 3 * 90 + 120) / 8 = 75; third: (90 + 3 * 120 + 3 * 150 + 180) / 8 = 135.
    # The centre crop takes the second and the third.
    row = np.arange(8) * 30
    image = Image.fromarray(np.tile(row, (4, 1)).astype(np.uint8))
    unit = Preprocess(size=2, resize=2, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    tensor = prepare_pixels(image.convert("RGB"), unit)
    for channel, mean, std in zip(tensor, unit.mean, unit.std, strict=True):
        expected = (np.array([75, 135]) - mean) / std
        np.testing.assert_array_equal(channel, np.tile(expected, (2, 1)).astype(np.float32))
    edges = prepare_pixels(image.convert("RGB"), Preprocess(size=4, std=(1.0,) * 3))  # squeezed, no crop
    assert edges[0, 0].tolist() == [round((3 * 0 + 3 * 30 + 60) / 7), 75, 135, round((150 + 3 * 180 + 3 * 210) / 7)]
    nearest = prepare_pixels(image.convert("RGB"), Preprocess(size=2, interpolation="nearest", std=(1.0,) * 3))
    assert nearest[0].tolist() == [[row[2], row[6]]] * 2


def test_the_long_side_is_cut_off_and_the_crop_rounds_halves_to_even() -> None:
    # As torchvision: int(2 * 7 / 3) = 4; (4 - 2) / 2 = 1. And 5 wide to 2: (5 - 2) / 2 = 1.5 -> 2; 7 to 2: 2.5 -> 2.
    nearest = {"interpolation": "nearest", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    wide = Image.fromarray(np.tile(np.arange(7, dtype=np.uint8), (3, 1))).convert("RGB")
    assert wide.resize((4, 2), Image.Resampling.NEAREST).getpixel((1, 0)) == (2, 2, 2)
    assert prepare_pixels(wide, Preprocess(size=2, resize=2, **nearest))[0, 0].tolist() == [2, 4]
    for width, first in ((5, 2), (7, 2), (6, 2), (3, 0)):
        image = Image.fromarray(np.tile(np.arange(width, dtype=np.uint8), (2, 1))).convert("RGB")
        assert prepare_pixels(image, Preprocess(size=2, resize=2, **nearest))[0, 0, 0] == first


def test_the_pixels_of_a_box_go_through_the_same_steps_as_an_image_of_them() -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8))
    preprocess = Preprocess(size=8, resize=10, interpolation="bicubic")
    box = (5, 7, 33, 30)
    np.testing.assert_array_equal(
        prepare_pixels(noise, preprocess, box=box), prepare_pixels(noise.crop(box), preprocess)
    )
    with pytest.raises(DataError, match="50 x 40 pixels"):
        prepare_pixels(noise, preprocess, box=(30, 30, 51, 40), where="noise.png")


def test_bgr_turns_the_channels_and_mean_and_std_follow_that_order() -> None:
    bgr = Preprocess(size=1, color="BGR", mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 2.0))
    assert prepare_image(encode(Image.new("RGB", (1, 1), (9, 20, 30))), bgr).ravel().tolist() == [29, 18, 3]


def test_a_width_of_its_own_cuts_out_a_rectangle_that_the_image_just_covers() -> None:
    plain = {"interpolation": "nearest", "mean": (0.0,) * 3, "std": (1.0,) * 3}
    wide = Image.fromarray(np.tile(np.arange(12, dtype=np.uint8), (3, 1))).convert("RGB")
    tensor = prepare_pixels(wide, Preprocess(size=3, width=6, resize=3, **plain))  # as it is; the middle six
    assert tensor[0].tolist() == [[3, 4, 5, 6, 7, 8]] * 3
    tall = wide.transpose(Image.Transpose.ROTATE_270)
    assert prepare_pixels(tall, Preprocess(size=2, width=3, resize=2, **plain))[0].tolist() == [[5] * 3, [6] * 3]
    squeezed = prepare_pixels(wide, Preprocess(size=1, width=4, **plain))
    assert squeezed[0].tolist() == [[1, 4, 7, 10]]


@settings(deadline=None, derandomize=True)
@given(*[st.integers(1, 60)] * 2, *[st.integers(1, 12)] * 2, st.integers(0, 5))
def test_every_image_comes_out_at_the_rectangle_asked_for(
    width: int, height: int, rows: int, columns: int, margin: int
) -> None:
    preprocess = Preprocess(size=rows, width=columns, resize=rows + margin)
    tensor = prepare_pixels(Image.new("RGB", (width, height), (255, 0, 51)), preprocess)
    assert tensor.shape == preprocess.shape == (3, rows, columns)
    square = Preprocess(size=rows, resize=rows + margin)
    same = prepare_pixels(Image.new("RGB", (width, height)), msgspec.structs.replace(square, width=rows))
    assert same.shape == square.shape


@settings(deadline=None, derandomize=True)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 12), st.integers(0, 5))
def test_every_image_comes_out_at_the_size_asked_for(width: int, height: int, size: int, margin: int) -> None:
    preprocess = Preprocess(size=size, resize=size + margin)
    tensor = prepare_pixels(Image.new("RGB", (width, height), (255, 0, 51)), preprocess)
    assert tensor.shape == (3, size, size)
    np.testing.assert_array_equal(tensor.min(axis=(1, 2)), tensor.max(axis=(1, 2)))
    np.testing.assert_allclose(tensor[:, 0, 0], [1, 0, 0.2], rtol=1e-6)
