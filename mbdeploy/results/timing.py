"""Raw times of models that took turns."""

from __future__ import annotations

from typing import Any

import msgspec

from mbdeploy.calls import Call
from mbdeploy.results.encoding import SCHEMA_VERSION
from mbdeploy.results.hosts import Host, ModelRef, Placement


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
    take until its intervals were narrow, with ``cool_down_s`` of rest between two of them. ``call`` asks for it again,
    with the other runs of that call (None: not recorded).
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
    call: Call | None = None
    schema_version: int = SCHEMA_VERSION
