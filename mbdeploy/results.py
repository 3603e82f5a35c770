"""What is saved: hosts, parity, latency and evaluation as raw facts; everything else is derived when it is shown."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

import msgspec

from mbdeploy.decoding import decode_json

T = TypeVar("T")

SCHEMA_VERSION = 1
Mode = Literal["executed", "exact"]
"""``executed``: the session as a user would open it. ``exact``: graph optimisation off, so that Q/DQ
pairs run in float and nothing can saturate. The difference between the two is saturation."""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Where something ran. ``isa`` holds int8-relevant instruction sets only (avx2, avx512_vnni, asimddp …)."""

    machine: str
    system: str
    cpu: str
    isa: tuple[str, ...]
    cores: int
    affinity: int
    cgroup_cores: float | None
    memory_bytes: int
    versions: dict[str, str]
    providers: tuple[str, ...]
    emulator: str | None = None


class ModelRef(msgspec.Struct, frozen=True, kw_only=True):
    """A model file as it was when it was used."""

    name: str
    path: str
    sha256: str
    size_bytes: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """How far an output is from its reference, over ``images`` images and ``elements`` numbers.

    ``sqnr_db`` is 10·log10(Σ ref² / Σ (ref − out)²), +inf if equal; ``top1_agreement`` lies in 0..1 (per
    pixel for segmentation), None where the output has no class axis; ``max_lsb`` is the largest
    distance in steps of the INT8 output scale, None where there is none. ``degenerate`` says why no
    number here may be believed (non-finite, empty, shape mismatch, constant); every gate then fails.
    """

    images: int
    elements: int
    max_abs: float
    sqnr_db: float
    cosine: float
    top1_agreement: float | None = None
    max_lsb: float | None = None
    degenerate: str | None = None


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One gate: a metric, its bound, and whether it holds. ``passed=None`` is inconclusive."""

    name: str
    subject: str
    value: float
    bound: float
    comparison: Literal[">=", "<="]
    passed: bool | None
    note: str = ""


class PlacedNode(msgspec.Struct, frozen=True, array_like=True):
    """One node of the optimised graph as it was run: ``type`` is that of its first input, such as uint8 or float32."""

    name: str
    operator: str
    provider: str
    type: str


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """How many nodes of the session's optimised graph each execution provider ran, and which operators are in it.

    ``elsewhere`` lists, as "operator name", the nodes that ran on another provider than the one asked for;
    ``ran`` is every node, in the order of execution.
    """

    nodes: dict[str, int]
    operators: dict[str, int]
    elsewhere: tuple[str, ...] = ()
    ran: tuple[PlacedNode, ...] = ()


class ParityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One variant on one provider in one mode, one output, against the reference.

    With ``against="exact"`` the executed outputs are compared with the same file's exact ones instead: what
    is left between the two is saturation (and the last bit of rounding).
    """

    model: ModelRef
    provider: str
    mode: Mode
    output: str
    metrics: Metrics
    placement: Placement
    session: dict[str, Any]
    against: Literal["reference", "exact"] = "reference"


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every variant against one reference, with the gates that were asked for."""

    reference: str
    rows: tuple[ParityRow, ...]
    checks: tuple[Check, ...]
    hosts: dict[str, Host]
    schema_version: int = SCHEMA_VERSION


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """Raw times of one model on one provider, in nanoseconds, in the order in which they were taken.

    ``wall_ns[i]`` and ``cpu_ns[i]`` are one inference of ``batch_size`` images; index i of two series of
    the same BenchRun belongs to the same pair. ``process[i]`` numbers the process that took it, from 0; empty
    where there was one only. ``load_ns`` is session creation (the file is in the page cache by then),
    ``first_ns`` the first inference, both in process 0; ``loads_ns`` and ``firsts_ns`` hold those of all
    processes. ``peak_bytes`` is the peak resident memory of a fresh process that ran only this model, with
    ``base_bytes`` of it there before the model was loaded and ``loaded_bytes`` before it was run. ``copy_ns`` is
    what copies to a device and back took, apart from the inference; empty where there are none. ``energy_uj`` is what
    the machine's sensors counted over ``energy_runs`` runs in a row, all else that ran there included; 0 without one.
    ``kind`` is fp32, simplified or int8, as :mod:`mbdeploy.stages.subject` says.
    """

    model: ModelRef
    provider: str
    wall_ns: tuple[int, ...]
    cpu_ns: tuple[int, ...]
    load_ns: int
    first_ns: int
    warmup_ns: tuple[int, ...]
    peak_bytes: int
    base_bytes: int
    loaded_bytes: int
    placement: Placement
    session: dict[str, Any]
    copy_ns: tuple[int, ...] = ()
    process: tuple[int, ...] = ()
    loads_ns: tuple[int, ...] = ()
    firsts_ns: tuple[int, ...] = ()
    energy_uj: int = 0
    energy_runs: int = 0
    kind: str = "fp32"


class BenchRun(msgspec.Struct, frozen=True, kw_only=True):
    """One interleaved run: series 0 is the baseline, ``control`` the baseline again (A/A).

    ``tolerance`` and ``seed`` are what verdicts over this run are to be derived with; ``warmup`` is None for
    until steady; ``inputs`` says which images were rotated. ``when_utc`` is when its last process ended, as
    2026-01-31T12:00:00Z ("": not recorded). ``require_placement`` are the rules that placements are
    to be judged by. ``processes`` were asked for at least, and ``max_duration_s`` was what a run of several might
    take until its intervals were narrow, with ``cool_down_s`` of rest between two of them.
    """

    provider: str
    threads: int
    batch_size: int
    warmup: int | None
    min_duration_s: float
    inputs: str
    tolerance: float
    seed: int
    series: tuple[Series, ...]
    control: Series
    host: Host
    require_placement: tuple[str, ...] = ()
    processes: int = 1
    max_duration_s: float = 0.0
    cool_down_s: float = 0.0
    when_utc: str = ""
    schema_version: int = SCHEMA_VERSION


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """One image's label and the classes a model ranks highest (best first)."""

    name: str
    label: int | None
    top: tuple[int, ...]


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """One model over a labelled data set: every prediction, so that any accuracy can be derived again."""

    model: ModelRef
    provider: str
    predictions: tuple[Prediction, ...]
    placement: Placement


class EvalReport(msgspec.Struct, frozen=True, kw_only=True):
    """Labelled data × variants. ``metrics`` compares each later model's logits with the first one's.

    ``other_hosts`` are further ones that took part, if workers on unlike machines shared the images.
    """

    data: str
    data_digest: str
    classes: int
    background: bool
    models: tuple[Evaluated, ...]
    metrics: tuple[Metrics, ...]
    host: Host
    other_hosts: tuple[Host, ...] = ()
    schema_version: int = SCHEMA_VERSION


def encode_result(value: Any) -> bytes:
    """A result as JSON; the numbers that JSON lacks are written as "inf", "-inf" and "nan", not lost as null."""
    return msgspec.json.encode(_name_non_finite(msgspec.to_builtins(value)))


def decode_result(data: bytes, kind: type[T]) -> T:
    """What ``encode_result`` wrote, as the struct it was.

    Raises:
        msgspec.MsgspecError: not such a result.
    """
    return decode_json(data, kind, strict=False)


def _name_non_finite(plain: Any) -> Any:
    if isinstance(plain, float):
        return plain if math.isfinite(plain) else str(plain)
    if isinstance(plain, dict):
        return {key: _name_non_finite(value) for key, value in plain.items()}
    if isinstance(plain, list | tuple):
        return [_name_non_finite(value) for value in plain]
    return plain
