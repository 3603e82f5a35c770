"""Model cards: what is declared about a network (never what was measured), read from TOML."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from mbdeploy import assets
from mbdeploy.decoding import decode_toml
from mbdeploy.errors import CardError

_NAME = re.compile(r"\w[\w.-]{0,99}", re.ASCII)
_MOST_PIXELS = 65536
_LONGEST_REASON = 500
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Preprocess(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How an image becomes an input tensor: NCHW float32, ``(pixel - mean) / std``, pixels 0..255.

    Rules: 1. the image is converted to RGB (or to grey if ``channels`` is 1), upright. 2. Its short
    side is resized to ``resize`` pixels (None: the image is squeezed to ``size`` x ``size``).
    3. The centre ``size`` x ``size`` is cut out. 4. Where ``width`` is given, ``size`` is the height alone: the image
    is resized to just cover ``resize`` rows and as many columns as keep the proportions, and the centre of ``size``
    rows and ``width`` columns is cut out. 5. ``mean`` and ``std`` are per channel, in the order of ``color``, in pixel
    units 0..255.
    """

    size: int
    width: int | None = None
    resize: int | None = None
    interpolation: Interpolation = "bilinear"
    channels: Literal[1, 3] = 3
    color: Literal["RGB", "BGR"] = "RGB"
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (255.0, 255.0, 255.0)

    def __post_init__(self) -> None:
        if not 1 <= self.size <= 8192:
            raise ValueError(f"size must lie in 1..8192 pixels, not {self.size}")
        if self.width is not None and not 1 <= self.width <= 8192:
            raise ValueError(f"width must lie in 1..8192 pixels, not {self.width}")
        if self.resize is not None and self.resize < self.size:
            raise ValueError(f"resize ({self.resize}) must not be below size ({self.size})")
        for name in ("mean", "std"):
            if len(getattr(self, name)) != self.channels:
                raise ValueError(f"{name} needs one number per channel ({self.channels})")
        if self.resize is not None and self.resize > _MOST_PIXELS:
            raise ValueError(f"resize must be at most {_MOST_PIXELS}, not {self.resize}")
        if not all(0 < s < math.inf for s in self.std):
            raise ValueError("std must be above 0 in every channel")
        if not all(map(math.isfinite, self.mean)):
            raise ValueError("mean must be a number in every channel")

    @property
    def shape(self) -> tuple[int, int, int]:
        """One input tensor: (channels, height, width)."""
        return self.channels, self.size, self.width or self.size


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the weights come from: a ``seed``, a ``file``, or a ``package`` that carries the file.

    Rules: 1. exactly one source. 2. ``file`` (relative to the card, or inside the package's folder)
    comes with its sha256, which ``mbdeploy init`` writes: that of an ONNX file with weights beside it is over all of
    these files. 3. Seeded weights of a ``net`` carry no accuracy, and every report says so; a factory
    runs under the seed, and may load weights of its own.
    """

    seed: int | None = None
    file: str | None = None
    package: str | None = None
    sha256: str | None = None
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise ValueError(f"seed must lie in 0..2^63 - 1, not {self.seed}")
        if (self.seed is None) == (self.file is None):
            raise ValueError("weights need exactly one of seed and file")
        if self.file is not None and self.sha256 is None:
            raise ValueError("a weights file needs its sha256")


class Labels(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What the classes are called: a name list in ``models/labels/`` and whether class 0 is background."""

    names: str | None = None
    background: bool = False


class Quantization(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The quantization this card asks for; the command line's options override it.

    ``keep_float`` names nodes, or patterns of names, that stay in float.
    """

    recipe: str = "accurate"
    calibration: str = "photos"
    calibration_method: Literal["minmax", "percentile", "entropy", "mse"] | None = None
    num_calibration_samples: int = 128
    keep_float: tuple[str, ...] = ()


class Budgets(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What must hold for the card to pass; set from measurement, then frozen.

    ``export_max_abs`` and ``simplify_max_abs`` are absolute logit differences; ``fp16_sqnr_db``, ``int8_sqnr_db`` and
    ``int8_top1_agreement`` (0..1) are against the golden outputs; ``int8_exact_gap_db`` bounds how
    far the run as executed may fall below the exact one (beyond it, images that scatter as much by rounding alone make
    the gate inconclusive; saturation costs 5 dB and more); ``latency_ratio`` is INT8 CPU time over
    optimised FP32 (None: not gated, because it depends on the host).
    """

    export_max_abs: float = 1e-4
    simplify_max_abs: float = 1e-4
    fp16_sqnr_db: float = 40.0
    int8_sqnr_db: float = 10.0
    int8_top1_agreement: float = 0.0
    int8_exact_gap_db: float = 0.3
    latency_ratio: float | None = None

    def __post_init__(self) -> None:
        for name, bound in msgspec.structs.asdict(self).items():
            if bound is not None and math.isnan(bound):  # TOML has such numbers, and nothing fails a gate with one
                raise ValueError(f"{name} must be a number, not nan")


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One network as it is to be deployed: architecture, weights, preprocessing, recipe, budgets.

    Rules: 1. exactly one of ``net`` (a row of ``mbdeploy.nets``) and ``factory``
    (``"pkg.mod:fn"``, which runs only with trust); neither where ``weights.file`` is an ONNX
    file beside the card, which then is the network. 2. ``args`` go to the builder as keywords.
    """

    name: str
    summary: str
    task: Literal["classify", "segment"] = "classify"
    net: str | None = None
    factory: str | None = None
    args: dict[str, Any] = {}
    weights: Weights
    preprocess: Preprocess
    labels: Labels = Labels()
    quantization: Quantization = Quantization()
    budgets: Budgets = Budgets()
    source: str = ""
    licence: str = ""
    path: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):  # folders and files are called after it
            raise ValueError("name must be letters, digits, dots, dashes and underlines, a hundred at most")
        if (self.net is not None) + (self.factory is not None) + self.is_file != 1:
            raise ValueError("a card names exactly one of net, factory and an ONNX file of weights")

    @property
    def trained(self) -> bool | None:
        """Whether accuracy may be claimed; None where a factory makes the weights, which may load its own."""
        return True if self.weights.seed is None else None if self.factory is not None else False

    @property
    def is_file(self) -> bool:
        """Whether the network is an ONNX file."""
        return self.weights.package is None and (self.weights.file or "").endswith(".onnx")


def load_card(name: str | Path) -> ModelCard:
    """Read a card by its name (``models/NAME.toml``) or by the path of a TOML file.

    Raises:
        CardError: no such card, unreadable TOML, an unknown or missing key (file and key named).
    """
    path = _find(name)
    try:
        card = decode_toml(path.read_bytes(), ModelCard)
    except msgspec.MsgspecError as error:
        raise CardError(
            where=path,
            expected="a model card as docs/cards.md describes it",
            found=str(error)[:_LONGEST_REASON],
            todo="correct that key",
        ) from error
    except OSError as error:
        raise CardError(
            where=path,
            expected="a readable model card",
            found=error.strerror or str(error),
            todo="check the path and its permissions",
        ) from error
    return msgspec.structs.replace(card, path=str(path))


def list_cards() -> list[ModelCard]:
    """All cards that ship with mbdeploy or lie on ``$MBDEPLOY_PATH``, by name."""
    return [load_card(path) for path in assets.list_assets("models", ".toml")]


def find_budgets(given: Budgets | str | None) -> Budgets:
    """Budgets as they are, those of a card (its name or file), or the defaults.

    Raises:
        CardError: no such card.
    """
    if given is None or isinstance(given, Budgets):
        return given or Budgets()
    return load_card(given).budgets


def name_card(card: ModelCard) -> str:
    """The word that ``load_card`` finds a card by: its name if that is enough, else its file."""
    return card.name if assets.find_asset("models", f"{card.name}.toml") == Path(card.path) else card.path


def card_digest(card: ModelCard) -> dict[str, Any]:
    """The card as plain data without its place on disk: what freshness keys and metadata hold."""
    plain: dict[str, Any] = msgspec.to_builtins(card)
    plain.pop("path")
    return plain


def _find(name: str | Path) -> Path:
    text = str(name)
    if text.endswith(".toml") or "/" in text:
        path = Path(text)
        if path.is_file():
            return path
        raise CardError(
            where=text,
            expected="a model card file",
            found="no such file",
            todo="check the path, or see `mbdeploy list`",
        )
    found = assets.find_asset("models", f"{text}.toml")
    if found is None:
        known = ", ".join(path.stem for path in assets.list_assets("models", ".toml"))
        raise CardError(
            where=text,
            expected=f"a card's name ({known})",
            found="no such card",
            todo="see `mbdeploy list`, or give the path of a .toml or .onnx file",
        )
    return found
