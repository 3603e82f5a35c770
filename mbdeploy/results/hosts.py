"""Where something ran, and which file it was: hosts, model files, and where nodes were placed."""

from __future__ import annotations

import msgspec


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


class PlacedNode(msgspec.Struct, frozen=True, array_like=True):
    """One node of the optimised graph as it was run: ``type`` is that of its first input, such as uint8 or float32."""

    name: str
    operator: str
    provider: str
    type: str


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """How many nodes of the session's optimised graph each execution provider ran, and which operators are in it.

    ``elsewhere`` lists, as "operator name", the nodes that ran on another provider than the one asked for;
    ``ran`` is every node, in the order of execution. ``assigned`` are the nodes that each provider took when the
    session was made, by operator, before they were fused or compiled into one; empty where the runtime does not say.
    """

    nodes: dict[str, int]
    operators: dict[str, int]
    elsewhere: tuple[str, ...] = ()
    ran: tuple[PlacedNode, ...] = ()
    assigned: dict[str, dict[str, int]] = {}
