"""Execution providers: the user's words for them, the wheel that carries each, and why one is absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mbdeploy.errors import UsageError


class ProviderRow(msgspec.Struct, frozen=True):
    """One execution provider: ONNX Runtime's name for it, the wheel with it in, and what it needs of the machine.

    ``machine`` is the architecture that the word stands for (empty: any). ``limits_memory`` is False
    where the driver reserves more address space than any limit on it could allow.
    """

    ep: str
    wheel: str
    needs: str = ""
    machine: str = ""
    limits_memory: bool = True


PROVIDERS: Mapping[str, ProviderRow] = {
    "cpu": ProviderRow("CPUExecutionProvider", "onnxruntime"),
    "arm": ProviderRow("CPUExecutionProvider", "onnxruntime", "an aarch64 CPU", machine="aarch64"),
    "cuda": ProviderRow("CUDAExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU", limits_memory=False),
    "tensorrt": ProviderRow("TensorrtExecutionProvider", "onnxruntime-gpu", "an NVIDIA GPU", limits_memory=False),
    "openvino": ProviderRow("OpenVINOExecutionProvider", "onnxruntime-openvino", "an Intel CPU, GPU or NPU"),
    "qnn": ProviderRow("QNNExecutionProvider", "onnxruntime-qnn", "a Qualcomm NPU, or its simulator"),
    "coreml": ProviderRow("CoreMLExecutionProvider", "onnxruntime", "macOS"),
    "xnnpack": ProviderRow("XnnpackExecutionProvider", "", "a build of ONNX Runtime with --use_xnnpack"),
}
_NVIDIA = frozenset({"CUDAExecutionProvider", "TensorrtExecutionProvider"})


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """What ``--provider NAME[@TARGET]`` means: ``word`` as it was written, the execution provider, the target."""

    word: str
    name: str
    ep: str
    target: str


def parse_provider(word: str) -> Provider:
    """Read ``NAME[@TARGET]``; NAME is a row of ``PROVIDERS`` or a full ``…ExecutionProvider``.

    Raises:
        UsageError: no such name.
    """
    name, at, target = word.partition("@")
    row = PROVIDERS.get(name.lower())
    if row is None and not name.endswith("ExecutionProvider"):
        raise UsageError(
            where=word,
            expected=f"a provider ({', '.join(PROVIDERS)}, or ONNX Runtime's …ExecutionProvider)",
            found=f"{name!r}",
            todo="choose one of these; the target comes after an @, as in cpu@qemu:haswell",
        )
    if at and not target:
        raise UsageError(where=word, expected="a target after the @", found="nothing", todo="name one, or drop the @")
    ep = name if row is None else row.ep
    return Provider(word=word, name=name if row is None else name.lower(), ep=ep, target=target or "local")


def limits_memory(ep: str) -> bool:
    """Whether a process with this provider can live under a limit of its address space."""
    return all(row.limits_memory for row in PROVIDERS.values() if row.ep == ep)


def explain_absence(ep: str, facts: Mapping[str, Any], cause: str) -> tuple[str, str]:
    """Why ``ep`` is not there, from the agent's facts and its cause, and what to do: (found, todo)."""
    row = next((row for row in PROVIDERS.values() if row.ep == ep), None)
    if ep not in facts["providers"]:
        installed = ", ".join(f"{name} {facts['versions'][name]}" for name in _carriers(facts)) or "no onnxruntime"
        return f"{installed}, which does not have it", _advise_wheel(row)
    missing = []
    if ep in _NVIDIA and not facts["nvidia_devices"]:
        missing.append("no NVIDIA device (/dev/nvidia0)")
    if ep in _NVIDIA and not facts["nvidia_driver"]:
        missing.append("no NVIDIA driver (libcuda.so.1)")
    todo = f"run where there is {row.needs}" if missing and row else "see that its driver and libraries are installed"
    return "; ".join([*missing, cause]) if cause else "; ".join(missing), todo


def list_absent(facts: Mapping[str, Any]) -> dict[str, str]:
    """Every row of ``PROVIDERS`` that this machine lacks, with the reason, as far as it shows without a model."""
    absent = {}
    for name, row in PROVIDERS.items():
        if row.machine and facts["machine"] not in (row.machine, "arm64"):
            absent[name] = f"this machine is {facts['machine']}"
            continue
        found, todo = explain_absence(row.ep, facts, "")
        if found:
            absent[name] = f"{found}; {todo}"
    return absent


def list_wheels() -> tuple[str, ...]:
    """The distributions that may carry ONNX Runtime."""
    return tuple(dict.fromkeys(row.wheel for row in PROVIDERS.values() if row.wheel))


def _carriers(facts: Mapping[str, Any]) -> list[str]:
    return [name for name in list_wheels() if name in facts["versions"]]


def _advise_wheel(row: ProviderRow | None) -> str:
    if row is None:
        return "check its name, and which wheel of ONNX Runtime carries it"
    if row.wheel == "":
        return f"install {row.needs}; no wheel carries it"
    if row.wheel == "onnxruntime":
        return f"`pip install onnxruntime`, on {row.needs or 'any machine'}"
    return f"`pip uninstall onnxruntime`, then `pip install {row.wheel}` in its place (it needs {row.needs})"
