"""What models said of labelled images, one by one."""

from __future__ import annotations

import msgspec

from mbdeploy.calls import Call
from mbdeploy.results.encoding import SCHEMA_VERSION
from mbdeploy.results.hosts import Host, ModelRef, Placement
from mbdeploy.results.parity import Check, Metrics


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

    ``checks`` are the gates on placement that were asked for.
    ``other_hosts`` are further ones that took part, if workers on unlike machines shared the images.
    ``call`` asks for it again (None: not recorded).
    """

    data: str
    data_digest: str
    classes: int
    background: bool
    models: tuple[Evaluated, ...]
    metrics: tuple[Metrics, ...]
    host: Host
    other_hosts: tuple[Host, ...] = ()
    checks: tuple[Check, ...] = ()
    call: Call | None = None
    schema_version: int = SCHEMA_VERSION
