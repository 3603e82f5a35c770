"""Execution providers: the user's words for them, what carries each, how it is opened, and why one is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mbdeploy.errors import UsageError


class ProviderRow(msgspec.Struct, frozen=True):
    """One execution provider: the runtime's name for it, the wheel with it in, and what it needs of the machine.

    ``recipe`` is the INT8 recipe that suits it, as ``quantize --recipe`` knows it; empty where Q/DQ runs in float,
    so that the float file is the one to deploy. ``options`` are set on every
    session unless the user says otherwise: they make float be float32, and nothing else. ``machine`` is the
    architecture that the word stands for (empty: any). ``limits_memory`` is False where the driver reserves more
    address space than any limit on it could allow. ``runtime`` is a row of the agent's table. ``beside`` says that its
    wheel lives beside plain onnxruntime and does not replace it, ``compiles`` that it makes integer kernels of Q/DQ
    whatever the level of graph optimisation, so that it has no exact mode. On an architecture that is
    ``simulated_on`` it only simulates its device.
    """

    ep: str
    wheel: str
    needs: str = ""
    recipe: str = "accurate"
    options: Mapping[str, str] = {}
    machine: str = ""
    limits_memory: bool = True
    runtime: str = "onnxruntime"
    beside: bool = False
    compiles: bool = False
    simulated_on: str = ""


# OpenVINO computes float in bfloat16 where the CPU has it (AMX); one stream, and no thread tied to a core, as in ORT.
_OPENVINO = {
    "INFERENCE_PRECISION_HINT": "f32",
    "PERFORMANCE_HINT": "LATENCY",
    "NUM_STREAMS": "1",
    "ENABLE_CPU_PINNING": "NO",
}
# CUDA convolves float32 in TF32, which keeps 10 bits of the fraction.
_CUDA = {"use_tf32": "0"}

PROVIDERS: Mapping[str, ProviderRow] = {
    "cpu": ProviderRow("CPUExecutionProvider", "onnxruntime"),
    "arm": ProviderRow("CPUExecutionProvider", "onnxruntime", "an aarch64 CPU", machine="aarch64"),
    "openvino": ProviderRow(
        "OpenVINO",
        "openvino",
        "an x86-64 or ARM CPU",
        options=_OPENVINO,
        runtime="openvino",
        beside=True,
        compiles=True,
    ),
    "cuda": ProviderRow(
        "CUDAExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU", recipe="", options=_CUDA, limits_memory=False
    ),
    "tensorrt": ProviderRow(
        "TensorrtExecutionProvider",
        "onnxruntime-gpu",
        "an NVIDIA GPU and TensorRT",
        recipe="s8s8-symmetric",
        limits_memory=False,
        compiles=True,
    ),
    "openvino-ep": ProviderRow(
        "OpenVINOExecutionProvider", "onnxruntime-openvino", "an Intel CPU, GPU or NPU", compiles=True
    ),
    "qnn": ProviderRow(
        "QNNExecutionProvider",
        "onnxruntime-qnn",
        "a Qualcomm NPU, or its simulator on x86-64",
        options={"backend_type": "htp"},
        limits_memory=False,
        beside=True,
        compiles=True,
        simulated_on="x86_64",
    ),
    "coreml": ProviderRow("CoreMLExecutionProvider", "onnxruntime", "macOS", recipe="", compiles=True),
    "xnnpack": ProviderRow("XnnpackExecutionProvider", "", "a build of ONNX Runtime with --use_xnnpack"),
}
_NVIDIA = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--provider NAME[@TARGET]`` means: ``word`` as it was written, the execution provider, the target."""

    word: str
    name: str
    ep: str
    target: str
    runtime: str = "onnxruntime"
    options: Mapping[str, str] = {}


def parse_provider(word: str) -> Provider:
    """Read ``NAME[@TARGET]``; NAME is a row of ``PROVIDERS`` or a full ``…ExecutionProvider``.

    Raises:
        UsageError: no such name.
    """
    name, at, target = word.partition("@")
    known = name.lower() in PROVIDERS
    if not known and not name.endswith("ExecutionProvider"):
        raise UsageError(
            where=word,
            expected=f"a provider ({', '.join(PROVIDERS)}, or ONNX Runtime's …ExecutionProvider)",
            found=f"{name!r}",
            todo="choose one of these; the target comes after an @, as in cpu@qemu:haswell",
        )
    if at and not target:
        raise UsageError(where=word, expected="a target after the @", found="nothing", todo="name one, or drop the @")
    row = PROVIDERS[name.lower()] if known else find_row(name)
    return Provider(
        word=word,
        name=name.lower() if known else name,
        ep=row.ep if row else name,
        target=target or "local",
        runtime=row.runtime if row else "onnxruntime",
        options=row.options if row else {},
    )


def find_row(ep: str) -> ProviderRow | None:
    """The row of an execution provider by the runtime's name for it, None if no row has it."""
    return next((row for row in PROVIDERS.values() if row.ep == ep), None)


def limits_memory(ep: str) -> bool:
    """Whether a process with this provider can live under a limit of its address space."""
    row = find_row(ep)
    return row is None or row.limits_memory


def compiles(ep: str) -> bool:
    """Whether this provider makes integer kernels of Q/DQ at every level of graph optimisation."""
    row = find_row(ep)
    return row is not None and row.compiles


def explain_absence(ep: str, facts: Mapping[str, Any], cause: str) -> tuple[str, str]:
    """Why ``ep`` is not there, from the agent's facts and its cause, and what to do: (found, todo)."""
    row = find_row(ep)
    broken = facts.get("broken", {}).get(ep)
    if broken:
        return broken, f"reinstall {row.wheel}" if row else "reinstall it"
    if ep not in facts["providers"] and row is not None and row.beside:
        return f"no package {row.wheel}", f"`pip install {row.wheel}`, beside onnxruntime"
    if ep not in facts["providers"]:
        conflict = find_conflict(facts["versions"])
        if conflict and row is not None and row.wheel in facts["versions"]:
            return conflict
        installed = ", ".join(f"{name} {facts['versions'][name]}" for name in _carriers(facts)) or "no onnxruntime"
        return f"{installed}, which does not have it", _advise_wheel(row)
    missing = _list_missing(facts) if ep in _NVIDIA else []
    todo = f"run where there is {row.needs}" if missing and row else "see that its driver and libraries are installed"
    if ep in _NVIDIA and facts.get("cuda", {}).get("missing") and facts["nvidia_driver"]:
        todo = "`pip install 'onnxruntime-gpu[cuda,cudnn]'`, which brings the libraries that this wheel was built for"
    return "; ".join([*missing, cause]) if cause else "; ".join(missing), todo


def find_conflict(versions: Mapping[str, str]) -> tuple[str, str] | None:
    """Two wheels of ONNX Runtime in one place, where each overwrites the other's files: (found, todo)."""
    found = [name for name in list_carriers() if name in versions]
    if len(found) < 2:
        return None
    return (
        f"{' and '.join(f'{name} {versions[name]}' for name in found)}, which overwrite each other's files",
        f"`pip uninstall {' '.join(found)}`, then install the one that you want",
    )


def list_absent(facts: Mapping[str, Any]) -> dict[str, str]:
    """Every row of ``PROVIDERS`` that this machine lacks, with the reason, as far as it shows without a model."""
    absent = {}
    for name, row in PROVIDERS.items():
        if row.machine and facts["machine"] not in (row.machine, "arm64"):
            absent[name] = f"this machine is {facts['machine']}; emulated ones: `mbdeploy targets list`"
            continue
        found, todo = explain_absence(row.ep, facts, "")
        if found:
            absent[name] = f"{found}; {todo}"
    return absent


def list_wheels() -> tuple[str, ...]:
    """The distributions that may carry a runtime."""
    return tuple(dict.fromkeys(row.wheel for row in PROVIDERS.values() if row.wheel))


def list_carriers() -> tuple[str, ...]:
    """The distributions that are an ONNX Runtime each, so that only one of them may be installed."""
    return tuple(dict.fromkeys(row.wheel for row in PROVIDERS.values() if row.wheel and not row.beside))


def _list_missing(facts: Mapping[str, Any]) -> list[str]:
    """What an NVIDIA provider lacks on this machine."""
    cuda = facts.get("cuda", {})
    missing = []
    if not facts["nvidia_devices"]:
        missing.append("no NVIDIA device (/dev/nvidia0)")
    if not facts["nvidia_driver"]:
        missing.append("no NVIDIA driver (libcuda.so.1)")
    built, driver = cuda.get("built", ""), cuda.get("driver", "")
    if built and driver and int(driver.partition(".")[0]) < int(built.partition(".")[0]):
        missing.append(f"a driver for CUDA {driver}, and an ONNX Runtime built for CUDA {built}")
    if cuda.get("missing"):
        missing.append(f"libraries that do not load: {', '.join(cuda['missing'])}")
    return missing


def _carriers(facts: Mapping[str, Any]) -> list[str]:
    return [name for name in list_carriers() if name in facts["versions"]]


def _advise_wheel(row: ProviderRow | None) -> str:
    if row is None:
        return "check its name, and which wheel of ONNX Runtime carries it"
    if row.wheel == "":
        return f"install {row.needs}; no wheel carries it"
    if row.wheel == "onnxruntime":
        return f"`pip install onnxruntime`, on {row.needs or 'any machine'}"
    return f"`pip uninstall onnxruntime`, then `pip install {row.wheel}` in its place (it needs {row.needs})"
