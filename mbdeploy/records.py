"""What a stage did, as it stands in the sidecar of the file that it wrote."""

from __future__ import annotations

import msgspec


class Rewrite(msgspec.Struct, frozen=True, kw_only=True):
    """One graph rewrite that changed something: how many times, and on which nodes."""

    name: str
    count: int
    nodes: tuple[str, ...]


class ExportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What an export did; ``max_abs`` is torch against ONNX Runtime over ``images`` golden images. ``trained`` is None
    where no card says where the weights come from."""

    exporter: str
    opset: int
    images: int
    max_abs: float
    torch_export_s: float
    trained: bool | None
    golden_sha256: str


class SimplifyRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a simplification did; ``onnxsim`` is its child's verdict, ``attempt`` the way of calling that was right.
    ``opsets`` are those of the file before and after."""

    onnxsim: str
    attempt: str
    detail: str
    rewrites: tuple[Rewrite, ...]
    operators_before: dict[str, int]
    operators_after: dict[str, int]
    max_abs: float
    opsets: tuple[int, int]


class LayerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One quantized Conv or Gemm. ``growth`` is pair-safe over plain scale (mean and largest over channels);
    ``clipping`` the share of its output channels whose plain scales could saturate in int16 on AVX2.
    ``recovered_db`` is the SQNR of its output with weights rounded to nearest and with the chosen ones, both from
    quantized inputs; None where the recipe does not look at outputs."""

    node: str
    operator: str
    weight: str
    depthwise: bool
    input_range: tuple[float, float]
    output_range: tuple[float, float]
    weight_scale: tuple[float, float]
    growth_mean: float
    growth_max: float
    clipping: float
    recovered_db: tuple[float, float] | None = None


class CurvePoint(msgspec.Struct, frozen=True, kw_only=True):
    """How far scales from so many images are from the final ones, as shares: in the middle, and the worst tensor's."""

    images: int
    median: float
    worst: float
    tensor: str


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A tensor's scale and the relative standard error that it has because these images are a sample.

    The error is a jackknife's, which leaves out one group of images at a time (:mod:`mbdeploy.quant.adequacy`).
    """

    tensor: str
    scale: float
    relative_error: float


class Widener(msgspec.Struct, frozen=True, kw_only=True):
    """An image that alone widens ranges: of how many tensors, and by which share of the range where it does most."""

    image: str
    tensors: int
    share: float
    tensor: str


class Adequacy(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the calibration images were enough, and the evidence. ``spread`` has every tensor, the worst first,
    ``data`` names the images ("": not recorded)."""

    images: int
    method: str
    curve: tuple[CurvePoint, ...]
    spread: tuple[Spread, ...]
    median_error: float | None
    wideners: tuple[Widener, ...]
    enough: bool
    sentence: str
    data: str = ""


class CalibrateRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a calibration did: its shards (True: found finished), the files it wrote, and whether images suffice.

    ``adequacy`` and ``files`` are empty while shards are missing.
    """

    model: str
    data: str
    samples: int
    shards: dict[str, bool]
    files: tuple[str, ...]
    adequacy: Adequacy | None


class HalveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a conversion to float16 did: its weights, how many became 0, the largest, and the types of constants."""

    weights: int
    lost: int
    largest: float
    types: dict[str, int]


class QuantizeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a quantization did: the recipe as carried out, its data, every layer, what stayed in float and why.

    ``ranges`` names the file that the activation ranges came from, if it was not the images. ``widened`` are the
    layers that got channels of zeros to read, with their channels before and after (``quant/widen.py``),
    ``gates`` the hard sigmoids that became a Clip of bytes (``quant/gates.py``).
    """

    recipe: str
    techniques: tuple[str, ...]
    method: str
    samples: int
    data: str
    data_digest: str
    layers: tuple[LayerRecord, ...]
    float_nodes: dict[str, str]
    operators: dict[str, int]
    cpu_s: float
    peak_bytes: int
    ranges: str = ""
    widened: dict[str, tuple[int, int]] = {}
    gates: tuple[str, ...] = ()
