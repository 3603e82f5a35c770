"""How far outputs are from their reference, the gates over that, and the same layer by layer."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from mbdeploy.calls import Call
from mbdeploy.results.encoding import SCHEMA_VERSION
from mbdeploy.results.hosts import Host, ModelRef, Placement

Mode = Literal["executed", "exact"]
"""``executed``: the session as a user would open it. ``exact``: graph optimisation off, so that Q/DQ
pairs run in float and nothing can saturate. The difference between the two is saturation."""


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


_OUTPUT = ", output "


def name_subject(model: str, provider: str, output: str = "") -> str:
    """What a gate is on: a model on a provider, and which output where it has several."""
    return f"{model} on {provider}" + (f"{_OUTPUT}{output}" if output else "")


def split_subject(check: Check) -> tuple[str, str]:
    """What a gate is on, and which output of it ("" where there is one)."""
    subject, _, output = check.subject.partition(_OUTPUT)
    return subject, output


def is_about(check: Check, model: str, provider: str) -> bool:
    """Whether a gate is on this model there, or on one of its outputs."""
    return split_subject(check)[0] == name_subject(model, provider)


def name_gate(check: Check) -> str:
    """A gate in words: its metric, and the output where the model has several."""
    _, output = split_subject(check)
    return check.name + (f" of {output}" if output else "")


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


class LayerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One 8-bit tensor of an INT8 file as executed, against the ``tensor`` of that name in the float file.

    Both are computed from the image on, so the error is what has come together up to here. ``node`` makes it from the
    tensors ``sources`` (of other rows; none if from the image alone).
    """

    node: str
    operator: str
    tensor: str
    sources: tuple[str, ...]
    metrics: Metrics


class LayerCurve(msgspec.Struct, frozen=True, kw_only=True):
    """An INT8 file on a provider along the network, in the order of the graph, against ``origin``, its float file.

    ``way`` says how tensors were had: "at once" (all of them from one session, which ran the same operators as the file
    itself and gave the same outputs, bit by bit) or "one by one" (from a session for each, which ends there).
    ``unpaired`` are 8-bit tensors that the float file does not have; ``note`` says why there are no rows, if so.
    """

    model: ModelRef
    origin: ModelRef
    provider: str
    way: Literal["at once", "one by one"] | None
    layers: tuple[LayerRow, ...]
    unpaired: tuple[str, ...] = ()
    note: str = ""


class ParityReport(msgspec.Struct, frozen=True, kw_only=True):
    """Every variant against one reference, with the gates that were asked for; ``layers`` only if they were, too.

    ``call`` asks for it again (None: not recorded).
    """

    reference: str
    rows: tuple[ParityRow, ...]
    checks: tuple[Check, ...]
    hosts: dict[str, Host]
    layers: tuple[LayerCurve, ...] = ()
    call: Call | None = None
    schema_version: int = SCHEMA_VERSION
