"""What is asked of a target and what it answers: the one seam between measuring code and machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import msgspec

from mbdeploy.errors import UsageError
from mbdeploy.isolate import Progress, ignore_progress
from mbdeploy.results import Host, Placement

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["probe", "infer", "bench", "memory", "profile"]


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One model opened in one way. ``companions`` are files it needs beside it (external data), by relative path.

    ``runtime`` is a row of the agent's table. Without ``arena`` ONNX Runtime gives memory back to the system after
    each use. With ``allow_fallback`` a session whose provider is not there runs on ONNX Runtime's CPU provider, and
    its settings say so under "fallback". ``opset`` and ``ir_version`` are the model's, 0 where nobody says: a runtime
    that is known to be too old for them is not given it.
    """

    model: Path
    provider: str
    companions: tuple[str, ...] = ()
    runtime: str = "onnxruntime"
    provider_options: dict[str, str] = {}
    session_config: dict[str, str] = {}
    optimization: Literal["none", "basic", "extended", "all"] = "all"
    threads: int = 1
    arena: bool = True
    allow_fallback: bool = False
    opset: int = 0
    ir_version: int = 0


class Job(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a target is to do with ``sessions`` and ``inputs`` (n, c, h, w; float32).

    Rules: 1. ``probe`` only describes the machine. 2. ``infer`` runs every session over all inputs;
    ``batch_size`` counts for a dynamic batch, a fixed one keeps its own. 3. ``bench`` runs the sessions
    by turns, one round after the other, until every session has ``min_rounds`` and ``min_duration_s``
    seconds, at most ``max_rounds``; ``warmup`` rounds before (None: until times are steady) do not
    count. 4. ``memory`` takes one session. 5. ``profile`` runs as ``bench`` does, with each node timed. 6. All of
    it ends after ``wall_s`` seconds.
    """

    kind: Kind
    sessions: tuple[Session, ...] = ()
    inputs: NDArray[np.float32] | None = None
    batch_size: int = 16
    warmup: int | None = None
    min_duration_s: float = 2.0
    min_rounds: int = 30
    max_rounds: int = 10_000
    wall_s: float = 3600.0


class Ran(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What one session of a job gave: outputs (``infer``), times (``bench``, ``profile``) or peaks (``memory``).

    ``settings`` says how it was really opened. Lists of times hold one entry a round; entry i of every
    session of the job comes from the same round. ``copy_ns`` are copies to a device and back, apart from
    ``wall_ns``; empty where the provider works in the host's memory. ``energy_uj`` is
    what sensors counted over ``energy_runs`` runs, 0 without one. ``profile`` holds, for each node in the order of
    execution, [name, operator, provider, type of its first input, shapes of its outputs, microseconds in each round].
    """

    settings: dict[str, Any] = {}
    placement: Placement = Placement(nodes={}, operators={})
    output_names: tuple[str, ...] = ()
    outputs: tuple[NDArray[Any], ...] = ()
    wall_ns: tuple[int, ...] = ()
    cpu_ns: tuple[int, ...] = ()
    warmup_ns: tuple[int, ...] = ()
    copy_ns: tuple[int, ...] = ()
    load_ns: int = 0
    first_ns: int = 0
    base_bytes: int = 0
    loaded_bytes: int = 0
    peak_bytes: int = 0
    energy_uj: int = 0
    energy_runs: int = 0
    profile: tuple[Any, ...] = ()


class Answer(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a target gave for a job: one ``Ran`` a session, its host, and why each known provider it lacks is absent."""

    host: Host
    sessions: tuple[Ran, ...]
    absent: dict[str, str]


class Target(Protocol):
    """A machine that runs jobs.

    Rules: 1. ``run`` never answers from another provider than a session names: it raises
    UnavailableError. 2. A model that the runtime refuses, or that kills or hangs it, raises StepError.
    3. ``emulated`` means that times do not exist there: ``bench`` and ``memory`` raise UsageError.
    """

    @property
    def name(self) -> str: ...

    @property
    def emulated(self) -> bool: ...

    def run(self, job: Job, on_progress: Progress = ignore_progress) -> Answer: ...


def refuse_emulated_times(target: Target, kind: Kind) -> None:
    """Raise UsageError if this kind of job measures and the target is emulated."""
    if target.emulated and kind in ("bench", "memory", "profile"):
        raise refuse_times(target.name, "an emulated one")


def refuse_times(where: str, found: str) -> UsageError:
    """The error for latency or memory of what is no real device."""
    return UsageError(
        where=where,
        expected="a target with a real CPU or device for latency and memory",
        found=f"{found}, on which times do not exist",
        todo="use it with verify or evaluate, and measure on the machine itself",
    )
