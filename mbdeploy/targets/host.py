"""From the agent's raw facts to a Host: instruction sets that matter for int8, quotas, versions."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbdeploy.results import Host

# Linux's word in /proc/cpuinfo -> the name we use, in the order in which they came to CPUs.
_FLAGS = {
    "sse4_1": "sse4.1",
    "avx2": "avx2",
    "avx512f": "avx512f",
    "avx512bw": "avx512bw",
    "avx512vl": "avx512vl",
    "avx512_vnni": "avx512_vnni",
    "avx_vnni": "avx_vnni",
    "amx_int8": "amx_int8",
    "asimd": "neon",
    "neon": "neon",
    "asimddp": "asimddp",
    "i8mm": "i8mm",
    "sve": "sve",
    "sve2": "sve2",
    "svei8mm": "svei8mm",
}
# (CPUID leaf.subleaf, register EAX=0 EBX=1 ECX=2 EDX=3, bit) of the same x86 names: Intel SDM volume 2A, CPUID.
_CPUID = {
    "sse4.1": ("1.0", 2, 19),
    "avx2": ("7.0", 1, 5),
    "avx512f": ("7.0", 1, 16),
    "avx512bw": ("7.0", 1, 30),
    "avx512vl": ("7.0", 1, 31),
    "avx512_vnni": ("7.0", 2, 11),
    "avx_vnni": ("7.1", 0, 4),
    "amx_int8": ("7.0", 3, 25),
}


def describe_host(facts: Mapping[str, Any], emulator: str | None = None) -> Host:
    """The Host that the agent's facts describe.

    Rules: 1. instruction sets come from /proc/cpuinfo (an emulated ARM CPU has its own), on an emulated x86
    CPU from CPUID itself; a system with neither lists none. 2. An emulated CPU is called after its
    emulator, not after the host's CPU.
    """
    fields = _read_fields(facts["cpuinfo"])
    return Host(
        machine=facts["machine"],
        system=facts["system"],
        cpu=emulator or _name_cpu(fields) or "unknown",
        isa=_decode_cpuid(facts["cpuid"]) if facts["cpuid"] else _list_flags(fields),
        cores=facts["cores"],
        affinity=facts["affinity"],
        cgroup_cores=facts["cgroup_cores"],
        memory_bytes=facts["memory_bytes"],
        versions=facts["versions"],
        providers=tuple(facts["providers"]),
        emulator=emulator,
    )


def identify_machine() -> dict[str, Any]:
    """What measurements on this machine depend on: results that were taken on another one are not fresh here."""
    cpuinfo = Path("/proc/cpuinfo")
    fields = _read_fields(cpuinfo.read_text(encoding="utf-8").partition("\n\n")[0]) if cpuinfo.is_file() else {}
    return {
        "machine": platform.machine(),
        "cpu": _name_cpu(fields) or platform.processor(),
        "isa": list(_list_flags(fields)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _read_fields(cpuinfo: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in cpuinfo.splitlines())
    return {key.strip().lower(): value.strip() for key, _, value in pairs}


def _name_cpu(fields: Mapping[str, str]) -> str:
    # ARM kernels give no name, only the implementer's and the part's number.
    arm = f"ARM implementer {fields.get('cpu implementer')} part {fields.get('cpu part')}"
    name = fields.get("model name") or (arm if "cpu part" in fields else "")
    return re.sub(r"\s+", " ", name)


def _list_flags(fields: Mapping[str, str]) -> tuple[str, ...]:
    present = set((fields.get("flags") or fields.get("features") or "").split())
    return tuple(dict.fromkeys(name for word, name in _FLAGS.items() if word in present))


def _decode_cpuid(registers: Mapping[str, list[int]]) -> tuple[str, ...]:
    return tuple(name for name, (leaf, register, bit) in _CPUID.items() if registers[leaf][register] >> bit & 1)
