"""What an audit found and what a repair did, as they are saved."""

from __future__ import annotations

from typing import Literal

import msgspec

from mbdeploy.results import SCHEMA_VERSION, Host, Metrics, ModelRef

Severity = Literal["error", "warning"]


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A place that a finding is about, and its numbers in words.

    ``time_share`` is the share of the file's time that the node takes with the conversions beside it; None where that
    was not looked at.
    """

    node: str
    text: str
    time_share: float | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a rule found: one sentence with numbers, what to do, and the places, the worst first.

    An ``error`` makes answers differ from CPU to CPU, or wrong; a ``warning`` costs accuracy or time. ``time_share`` is
    that of all places together.
    """

    rule: str
    severity: Severity
    title: str
    summary: str
    change: str
    spots: tuple[Spot, ...]
    time_share: float | None = None


class LayerAudit(msgspec.Struct, frozen=True, kw_only=True):
    """One product of 8-bit numbers.

    ``kind`` is a row of ``cpus.KINDS`` or the types as they are. ``pairs`` is the share of output channels
    that can saturate on x86 without VNNI, ``twins`` that of those that can wrap on ARM without dot product.
    ``clipped`` is the share of outputs that saturated on the images that were given, and ``clipped_db`` the
    SQNR that saturation alone left of the layer's sums; None without images. ``fused`` says whether it runs in
    integers here, ``time_share`` its share of the time; None where that was not looked at.
    """

    node: str
    operator: str
    kind: str
    per_channel: bool
    depthwise: bool
    channels: int
    pairs: float
    twins: float
    clipped: float | None = None
    clipped_db: float | None = None
    fused: bool | None = None
    time_share: float | None = None


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """One file on one provider, one output.

    ``saturation`` compares it as executed with the same arithmetic without saturation: equal, or something clipped.
    ``executed`` and ``exact`` (as ``results.Mode`` has it) are against the float model, None without one.
    """

    file: Literal["input", "repaired"]
    provider: str
    output: str
    saturation: Metrics
    executed: Metrics | None
    exact: Metrics | None


class Repaired(msgspec.Struct, frozen=True, kw_only=True):
    """One layer that was made safe: how many channels, how far their scales grew, and what that did to its weights.

    ``weights_db`` is the SQNR of the stored weights against the source's, before and after.
    """

    node: str
    channels: int
    growth_max: float
    weights_db: tuple[float, float]


class RepairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a repair did. ``source`` says where weights came from; ``left`` why a layer was not repaired, by node."""

    source: str
    layers: tuple[Repaired, ...]
    left: dict[str, str]
    clipping_before: int
    clipping_after: int


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What one file shows by itself. ``unjudged`` says by node why a product could not be looked at.

    ``timed_on`` says over which inputs shares of time are: images, or noise, which takes the same time. It is empty
    where nothing was timed.
    """

    form: str
    layers: tuple[LayerAudit, ...]
    unjudged: dict[str, str]
    cpus: dict[str, int]
    findings: tuple[Finding, ...]
    operators: dict[str, int]
    conversion_share: float | None = None
    timed_on: str = ""

    @property
    def clipping(self) -> int:
        """How many layers some CPU can compute otherwise than the others."""
        return sum(layer.pairs > 0 or layer.twins > 0 for layer in self.layers)

    @property
    def passed(self) -> bool:
        """Whether nothing of severity error was found."""
        return all(finding.severity != "error" for finding in self.findings)


class AuditReport(msgspec.Struct, frozen=True, kw_only=True):
    """The audit of a file: what it shows, what it did on ``images`` images, and its repair if one was asked for.

    ``repaired`` is what the repaired file shows, ``repair`` what was done to it. ``inputs`` says which images ran.
    """

    model: ModelRef
    verdict: str
    examined: Examined
    inputs: str
    images: int
    runs: tuple[Ran, ...]
    hosts: dict[str, Host]
    repair: RepairRecord | None = None
    repaired: Examined | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def passed(self) -> bool:
        """Whether the file, or the repaired one where there is one, is free of errors."""
        return (self.repaired or self.examined).passed
