"""One recorded number, what it is of, and the columns of the Parquet files that hold such numbers."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from mbdeploy.results import Host

Dated = Literal["measured", "added"]
Source = Literal["bench", "verify", "evaluate", "sweep"]
#: The host class of numbers whose result does not say where they were taken.
UNKNOWN_HOST = "host not recorded"


#: Nothing was measured before or will be after: a date outside is none.
EARLIEST, LATEST = datetime(2000, 1, 1), datetime(2999, 12, 31)


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the history, and its columns in their order.

    ``when_utc`` is when it was ``dated``: "measured", if the result says when, else "added" to the history. ``result``
    is the sha256 of the result's file, ``sha256`` that of the model's. ``threads`` and ``batch_size`` are None where
    the result does not say or it does not matter. ``basis`` is what a metric is relative to, or measured by. ``low``
    and ``high`` are the ends of its interval, ``n`` the samples behind it. ``mbdeploy`` is the version that measured,
    "" where nobody wrote it down.
    """

    when_utc: datetime
    dated: Dated
    source: Source
    result: str
    model: str
    variant: str
    recipe: str
    sha256: str
    provider: str
    threads: int | None
    batch_size: int | None
    host_class: str
    cpu: str
    machine: str
    isa: str
    cores: int | None
    runtime: str
    metric: str
    basis: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    mbdeploy: str


#: The columns' types, in Arrow's words.
COLUMNS = {
    **dict.fromkeys(Measurement.__struct_fields__, "string"),
    "when_utc": "timestamp[ms]",
    **dict.fromkeys(("threads", "batch_size", "cores", "n"), "int64"),
    **dict.fromkeys(("value", "low", "high"), "double"),
}
OPTIONAL = frozenset({"threads", "batch_size", "cores", "low", "high", "n"})


def classify_host(host: Host, provider: str) -> dict[str, str | int | None]:
    """The columns of a host. Hosts are of one class if all that decides times and last bits is the same.

    That is CPU, instruction sets, cores that may be used, emulator, and the version of the provider's runtime; a new
    kernel, another Python, more memory or a runtime that did not run leave a host in its class.
    """
    cores = host.affinity if host.cgroup_cores is None else min(host.affinity, host.cgroup_cores)
    word = provider.partition("@")[0].partition(" ")[0]
    runtime = ", ".join(f"{name} {version}" for name, version in host.versions.items() if _takes_part(name, word))
    isa = " ".join(host.isa)
    parts = [f"{host.cpu}, {host.machine}", isa, f"{cores:g} of {host.cores} cores", runtime]
    if host.emulator:
        parts.append(f"emulated by {host.emulator}")
    return {
        "host_class": "; ".join(part for part in parts if part),
        "cpu": host.cpu,
        "machine": host.machine,
        "isa": isa,
        "cores": host.cores,
        "runtime": runtime,
    }


def _takes_part(package: str, provider: str) -> bool:
    """Whether a session on a provider runs on this package."""
    if package == "openvino":
        return provider.startswith("openvino")
    if package == "onnxruntime-qnn":
        return provider == "qnn"
    return package.startswith("onnxruntime") and provider != "openvino"


NO_HOST: dict[str, str | int | None] = {
    "host_class": UNKNOWN_HOST,
    "cpu": "",
    "machine": "",
    "isa": "",
    "cores": None,
    "runtime": "",
}
