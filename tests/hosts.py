"""A host that does not exist, for results that are made up."""

from __future__ import annotations

from mbdeploy.results import Host

HOST = Host(
    machine="m",
    system="s",
    cpu="c",
    isa=(),
    cores=1,
    affinity=1,
    cgroup_cores=None,
    memory_bytes=1,
    versions={},
    providers=(),
)
