"""From raw facts to a host: real /proc/cpuinfo lines of x86 and ARM, CPUID words, a system without either."""

from __future__ import annotations

import platform
from typing import Any

import pytest

from mbdeploy.targets import agent
from mbdeploy.targets.host import describe_host, identify_machine


def make_facts(**changed: Any) -> dict[str, Any]:
    facts = {
        "machine": "x86_64",
        "system": "Linux 6",
        "cpuinfo": "",
        "cores": 4,
        "affinity": 2,
        "cgroup_cores": 1.5,
        "memory_bytes": 1 << 30,
        "versions": {"python": "3.11"},
        "providers": ["CPUExecutionProvider"],
        "cpuid": {},
    }
    return {**facts, **changed}


def test_an_x86_cpu_lists_its_int8_instructions_from_old_to_new() -> None:
    cpuinfo = (
        "processor\t: 0\nmodel name\t: Intel(R)  Xeon(R)\nflags\t\t: fpu avx512_vnni avx2 sse4_1 avx512f amx_int8\n"
    )
    host = describe_host(make_facts(cpuinfo=cpuinfo))
    assert host.cpu == "Intel(R) Xeon(R)"
    assert host.isa == ("sse4.1", "avx2", "avx512f", "avx512_vnni", "amx_int8")
    assert (host.cores, host.affinity, host.cgroup_cores, host.emulator) == (4, 2, 1.5, None)


def test_an_arm_cpu_is_called_by_its_part_number() -> None:
    cpuinfo = "BogoMIPS\t: 50\nFeatures\t: fp asimd asimddp sve i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"
    host = describe_host(make_facts(machine="aarch64", cpuinfo=cpuinfo))
    assert host.cpu == "ARM implementer 0x41 part 0xd0c"
    assert host.isa == ("neon", "asimddp", "i8mm", "sve")


def test_a_system_without_cpuinfo_lists_nothing() -> None:
    host = describe_host(make_facts(system="Darwin 24"))
    assert (host.cpu, host.isa) == ("unknown", ())


def test_under_emulation_the_instructions_come_from_cpuid_and_the_name_from_the_emulator() -> None:
    cpuid = {"1.0": [0, 0, 1 << 19, 0], "7.0": [0, 1 << 5, 0, 0], "7.1": [0, 0, 0, 0]}
    host = describe_host(make_facts(cpuinfo="flags : avx512_vnni\nmodel name : host", cpuid=cpuid), "qemu -cpu Haswell")
    assert host.isa == ("sse4.1", "avx2")
    assert host.cpu == host.emulator == "qemu -cpu Haswell"


def test_an_emulated_arm_cpu_lists_what_its_own_cpuinfo_says() -> None:
    cpuinfo = "Features\t: fp asimd cpuid asimddp sve sve2 i8mm svei8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    host = describe_host(make_facts(machine="aarch64", cpuinfo=cpuinfo), "qemu-aarch64 -cpu max")
    assert host.isa == ("neon", "asimddp", "i8mm", "sve", "sve2", "svei8mm")
    assert (host.machine, host.cpu, host.emulator) == ("aarch64", "qemu-aarch64 -cpu max", "qemu-aarch64 -cpu max")


@pytest.mark.skipif(
    platform.machine() != "x86_64" or platform.system() != "Linux", reason="compares CPUID with /proc/cpuinfo"
)
def test_cpuid_and_cpuinfo_agree_on_a_real_cpu() -> None:
    cpuid = {"1.0": agent.read_cpuid(1, 0), "7.0": agent.read_cpuid(7, 0), "7.1": agent.read_cpuid(7, 1)}
    from_cpuid = describe_host(make_facts(cpuid=cpuid)).isa
    from_cpuinfo = describe_host(make_facts(cpuinfo=agent.read_text("/proc/cpuinfo").split("\n\n")[0])).isa
    # The kernel may hide what it does not support; it never shows what the CPU lacks.
    assert set(from_cpuinfo) <= set(from_cpuid)
    assert "sse4.1" in from_cpuid


def test_this_machine_is_known_by_what_its_results_depend_on() -> None:
    found = identify_machine()
    assert found == identify_machine()
    assert found["machine"] == platform.machine() and found["cores"] >= 1
    facts = make_facts(cpuinfo=agent.read_text("/proc/cpuinfo").split("\n\n")[0])
    assert tuple(found["isa"]) == describe_host(facts).isa
