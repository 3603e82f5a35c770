"""One image file becomes one input tensor: decoded upright, resized, cropped, normalised."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from mbdeploy.card import Preprocess
from mbdeploy.data.samples import Box, unreadable
from mbdeploy.errors import DataError

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg",
        ".jpeg",
        ".jpe",
        ".png",
        ".bmp",
        ".gif",
        ".tif",
        ".tiff",
        ".webp",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
    }
)
MAX_PIXELS = 64_000_000

# Named, so that a file never reaches Pillow's rarer decoders (EPS would start Ghostscript).
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_ORIENTATION_TAG = 0x0112
# EXIF orientation: what puts the picture upright. ImageOps.exif_transpose does the same and also writes
# the remaining EXIF anew, which fails where that is damaged.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_NOT_IMAGES = (
    (b"version https://git-lfs", "a Git LFS pointer instead of the image", "fetch it with `git lfs pull`"),
    (b"<", "HTML or XML text", "download the image itself"),
)


def prepare_image(source: str | Path | BinaryIO, preprocess: Preprocess) -> NDArray[np.float32]:
    """Decode, resize, crop and normalise one image: (channels, height, width) float32.

    Raises:
        DataError: a file that is missing, no image, truncated, too large, or of an unsupported depth.
    """
    image = decode_image(source, channels=preprocess.channels)
    return prepare_pixels(image, preprocess, where=_name_of(source))


def decode_image(source: str | Path | BinaryIO, *, channels: int = 3) -> Image.Image:
    """Decode an image file to upright RGB (or grey, mode L, if ``channels`` is 1), 8 bits a channel.

    Rules: 1. the EXIF orientation is applied. 2. 16-bit grey is divided by 257 (65535 becomes 255);
    Pillow itself reduces 16-bit colour to its upper byte, which is at most 1 away. 3. Transparent
    pixels are blended over white: that is what a person sees on a page, while the colour stored under
    a transparent pixel is arbitrary. 4. CMYK and palettes become RGB; colour profiles are not applied.
    5. Of an animation or a multi-page file the first picture counts. 6. More than 64 million pixels,
    or pixels of 32 bits, are refused. 7. JPEG is decoded at full size (no reduced-size decoding), so
    that the result does not depend on the size asked for.
    """
    where = _name_of(source)
    if isinstance(source, (str, Path)):
        try:
            with Path(source).open("rb") as file:
                return _decode(file, channels, where)
        except OSError as error:
            raise unreadable(source, error) from error
    return _decode(source, channels, where)


def prepare_pixels(
    image: Image.Image, preprocess: Preprocess, *, box: Box | None = None, where: str = "image"
) -> NDArray[np.float32]:
    """Cut ``box`` out of a decoded image, then resize, crop and normalise it as if it were the image.

    Rules (those of torchvision's Resize and CenterCrop over Pillow, whose filters smooth when they
    shrink): 1. the short side becomes ``resize``, the long one ``int(resize * long / short)``; without
    ``resize`` both become ``size``. Where ``width`` is given, short is the side that covers the input just so.
    2. The crop starts at ``round((side - size) / 2)``, halves to even.
    3. ``(pixel - mean) / std`` in float32, channels in the order of ``color``.
    """
    if box is not None:
        if box[2] > image.width or box[3] > image.height:
            raise DataError(
                where=where,
                expected=f"an image that holds the crop {box}",
                found=f"{image.width} x {image.height} pixels",
                todo="correct `size` in the manifest",
            )
        image = image.crop(box)
    _, rows, columns = preprocess.shape
    resize = preprocess.resize
    width, height = (columns, rows) if resize is None else _cover(image.size, (resize * columns / rows, resize))
    if width * height > MAX_PIXELS:
        raise DataError(
            where=where,
            expected=f"an image of at most {MAX_PIXELS:,} pixels once its short side is {resize}",
            found=f"{image.width} x {image.height}, which would become {width} x {height}",
            todo="cut the image, or leave it out",
        )
    if image.size != (width, height):
        image = image.resize((width, height), _RESAMPLING[preprocess.interpolation])
    left, top = round((width - columns) / 2.0), round((height - rows) / 2.0)
    image = image.crop((left, top, left + columns, top + rows))
    return _normalise(np.asarray(image).reshape(rows, columns, preprocess.channels), preprocess)


def _cover(size: tuple[int, int], area: tuple[float, int]) -> tuple[int, int]:
    """The size of an image, (width, height), once it just covers an area: of a square, its short side fits."""
    width, height = size
    columns, rows = round(area[0]), area[1]
    if width * rows <= columns * height:
        return columns, int(columns * height / width)
    return int(rows * width / height), rows


def _normalise(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    planes = pixels.transpose(2, 0, 1)
    if preprocess.color == "BGR":
        planes = planes[::-1]
    shape = (preprocess.channels, 1, 1)
    mean = np.asarray(preprocess.mean, np.float32).reshape(shape)
    std = np.asarray(preprocess.std, np.float32).reshape(shape)
    tensor: NDArray[np.float32] = np.ascontiguousarray(planes, np.float32)
    tensor -= mean
    tensor /= std
    return tensor


def _decode(file: BinaryIO, channels: int, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, which is harmless, and of large images, which rule 6 settles.
            warnings.simplefilter("ignore")
            image: Image.Image = Image.open(file, formats=_FORMATS)
            if image.width * image.height > MAX_PIXELS:
                raise _too_large(where, f"{image.width} x {image.height}")
            image.load()
            is_deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
            image = _to_eight_bits(_turn_upright(image), is_deep, where)
            return image if channels == 3 else image.convert("L")
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large(where, "far more") from error
    except Exception as error:  # a decoder raises nearly anything on a damaged file
        raise _not_decodable(file, where, error) from error


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF says nothing: the picture stays as it lies, as in every viewer
        return image
    return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def _to_eight_bits(image: Image.Image, is_deep: bool, where: str) -> Image.Image:
    if is_deep:
        values = np.asarray(image).astype(np.uint32)
        image = Image.fromarray(((values + 128) // 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DataError(
            where=where,
            expected="an image of 8 or 16 bits a channel",
            found=f"32-bit pixels (mode {image.mode}), whose range no rule gives",
            todo="save it with 8 bits a channel",
        )
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _too_large(where: str, found: str) -> DataError:
    return DataError(
        where=where,
        expected=f"an image of at most {MAX_PIXELS:,} pixels",
        found=f"{found} pixels (a decompression bomb, or a panorama)",
        todo="shrink it, or leave it out",
    )


def _not_decodable(file: BinaryIO, where: str, error: Exception) -> DataError:
    found, todo = f"{type(error).__name__}: {error}", "replace the file, or leave it out"
    if isinstance(error, UnidentifiedImageError):
        file.seek(0)
        head = file.read(64)
        found = "bytes that are no image of these formats" if head else "an empty file (0 bytes)"
        found, todo = next(((f, t) for mark, f, t in _NOT_IMAGES if head.startswith(mark)), (found, todo))
    formats = ", ".join(_FORMATS)
    return DataError(where=where, expected=f"a whole image ({formats})", found=found, todo=todo)


def _name_of(source: str | Path | BinaryIO) -> str:
    return str(source) if isinstance(source, (str, Path)) else str(getattr(source, "name", "image"))
