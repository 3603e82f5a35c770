"""Words for things that cards also spell out: preprocessing presets and lists of class names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import assets
from mbdeploy.card import Labels, Preprocess
from mbdeploy.decoding import decode_toml
from mbdeploy.errors import CardError, UsageError

# word: mean and std in pixel units 0..255; one number stands for every channel.
PRESETS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),  # torchvision: 255 x (0.485, ...)
    "tf": ((127.5,), (127.5,)),  # -1..1: MobileNet and Inception in TensorFlow
    "lite": ((127.0,), (128.0,)),  # EfficientNet-Lite
    "unit": ((0.0,), (255.0,)),  # 0..1
    "raw": ((0.0,), (1.0,)),  # 0..255
}


def resolve_preprocess(word: str | None, *, size: int, channels: int = 3, width: int | None = None) -> Preprocess:
    """The preprocessing that a word (``imagenet``, ``tf``, ``lite``, ``unit``, ``raw``) or FILE.toml means.

    Rules: 1. a word resizes the short side to ``round(size * 256 / 224)``, bilinear, and cuts out the
    centre. 2. A file holds the keys of :class:`Preprocess`; ``size``, ``channels`` and, beside that size, ``width``
    come from the arguments where the file does not say. A ``width`` of None, or of ``size``, means a square.

    Raises:
        UsageError: no word, an unknown one, or one that does not fit the number of channels.
    """
    if word is None:
        raise UsageError(
            expected="how an image becomes an input (the model file does not say)",
            found="no preprocessing",
            todo=f"give --preprocess {'|'.join(PRESETS)}|FILE.toml",
        )
    fields = _read_file(word) if word.endswith(".toml") else _read_preset(word, size, channels)
    wide = {"width": width} if width not in (None, size) and "size" not in fields else {}
    try:
        return msgspec.convert({"size": size, **wide, "channels": channels, **fields}, Preprocess)
    except msgspec.ValidationError as error:
        raise UsageError(
            where=word,
            expected="preprocessing as docs/cards.md describes it",
            found=str(error),
            todo="correct that key, or name another preprocessing",
        ) from error


def load_labels(labels: Labels) -> list[str] | None:
    """The class names in the order of the model's outputs, or None if the card names no list.

    A background class comes first, as "background".

    Raises:
        CardError: no such list.
    """
    if labels.names is None:
        return None
    path = assets.find_asset("models", f"labels/{labels.names}.txt")
    if path is None:
        raise CardError(
            where=labels.names,
            expected="a list of class names in models/labels/",
            found="no such list",
            todo="correct `names` under [labels] in the card",
        )
    return ["background"] * labels.background + path.read_text(encoding="utf-8").splitlines()


def _read_preset(word: str, size: int, channels: int) -> dict[str, Any]:
    if word not in PRESETS:
        raise UsageError(
            where=word,
            expected=f"a preprocessing ({', '.join(PRESETS)}, or FILE.toml)",
            found="an unknown word",
            todo="choose one of these",
        )
    mean, std = (numbers * channels if len(numbers) == 1 else numbers for numbers in PRESETS[word])
    return {"resize": round(size * 256 / 224), "mean": mean, "std": std}


def _read_file(word: str) -> dict[str, Any]:
    try:
        return decode_toml(Path(word).read_bytes(), dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            where=word,
            expected="a TOML file with preprocessing",
            found=str(error),
            todo="check the path and what the file holds",
        ) from error
