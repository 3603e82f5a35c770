"""What doctor says about a machine follows from its instruction sets and its packages."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from mbdeploy.cli.machine import EXTRAS, describe_machine, judge_int8, tabulate_machine
from mbdeploy.results import Host
from mbdeploy.targets import PROVIDERS, Answer

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

HOST = Host(
    machine="x86_64",
    system="Linux 6",
    cpu="A CPU",
    isa=("sse4.1", "avx2"),
    cores=8,
    affinity=4,
    cgroup_cores=2.5,
    memory_bytes=16_000_000_000,
    versions={"python": "3.12.1"},
    providers=("CPUExecutionProvider",),
)
ANSWER = Answer(host=HOST, sessions=(), absent={"cuda": "no NVIDIA device; run where there is one"})


@pytest.mark.parametrize(
    ("isa", "verdict"),
    [
        (("sse4.1", "avx2"), "saturates"),
        (("sse4.1", "avx2", "avx512f", "avx512bw", "avx512vl"), "saturates"),
        (("sse4.1", "avx2", "avx_vnni"), "exact"),
        (("sse4.1", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni"), "exact"),
        (("sse4.1", "avx2", "avx512bw", "avx512_vnni", "amx_int8"), "exact"),
        (("sse4.1",), "saturates"),
        (("neon",), "exact"),
        (("neon", "asimddp", "i8mm"), "exact"),
        ((), "unknown"),
    ],
)
def test_int8_saturates_only_on_x86_without_vnni(isa: tuple[str, ...], verdict: str) -> None:
    assert judge_int8(msgspec.structs.replace(HOST, isa=isa))[0] == verdict


def test_two_wheels_of_onnx_runtime_are_pointed_out_and_every_row_names_its_recipe() -> None:
    both = {"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}
    answer = msgspec.structs.replace(ANSWER, host=msgspec.structs.replace(HOST, versions=both))
    table = next(table for table in tabulate_machine(answer) if table.title == "Providers")
    assert "which overwrite each other's files; `pip uninstall onnxruntime onnxruntime-gpu`" in table.notes[-1]
    assert {row[0]: row[2] for row in table.rows}["tensorrt"] == "s8s8-symmetric"
    assert {row[0]: row[2] for row in table.rows}["cuda"] == "float"
    assert describe_machine(answer)["providers"]["openvino"]["wheel"] == "openvino"


def test_the_quota_the_affinity_and_every_provider_are_shown() -> None:
    rows = {row[0]: row[1] for table in tabulate_machine(ANSWER) for row in table.rows}
    assert rows["cores"] == "8, of them for this process 4"
    assert rows["cgroup quota"] == "2.5 cores"
    assert rows["cpu"] == "available"
    assert rows["cuda"] == "no NVIDIA device; run where there is one"
    assert set(PROVIDERS) <= set(rows)


def test_json_says_the_same() -> None:
    found = describe_machine(ANSWER)
    assert found["int8"]["verdict"] == "saturates"
    cuda, cpu = found["providers"]["cuda"], found["providers"]["cpu"]
    assert (cuda["available"], cuda["why"]) == (False, "no NVIDIA device; run where there is one")
    assert (cpu["available"], cpu["why"], cpu["ep"]) == (True, "", "CPUExecutionProvider")


def test_extras_are_those_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        name: {line.partition(";")[0].partition("=")[0].rstrip("><~!") for line in lines}
        for name, lines in project["optional-dependencies"].items()
        if name != "dev"
    }
    assert {name: set(packages) for name, packages in EXTRAS.items()} == declared
