"""Targets and a built emulation prefix as tables and as plain data, for ``mbdeploy targets``."""

from __future__ import annotations

from typing import Any

import msgspec

from mbdeploy.errors import MbdeployError
from mbdeploy.results import SCHEMA_VERSION
from mbdeploy.stages.tables import Table, format_bytes
from mbdeploy.targets import open_target, parse_provider
from mbdeploy.targets.emulation import CPUS, Built

#: Words whose targets are shown: this machine, the x86 CPU meant without a name, the ARM CPUs of a prefix, a container.
_WORDS = ("cpu@local", "cpu@qemu:x86_64", *(f"arm@qemu:{cpu}" for cpu in CPUS), "arm@docker")


def describe_targets() -> dict[str, Any]:
    """Each target: how it is called, whether it is emulated, and, where it is not there, what it needs."""
    return {"schema_version": SCHEMA_VERSION, "targets": [_describe_one(word) for word in _WORDS]}


def tabulate_targets(described: dict[str, Any]) -> list[Table]:
    """The same as a table."""
    rows = tuple(
        (row["provider"], "emulated" if row["emulated"] else "real", row["needs"] or "available")
        for row in described["targets"]
    )
    notes = (
        "any CPU that this qemu knows may follow the colon; an emulated CPU has no times",
        "a board is cpu@ssh:[user@]host[:port]: see docs/boards.md",
    )
    return [Table(title="Targets", columns=("--provider", "CPU", ""), rows=rows, left=(0, 1, 2), notes=notes)]


def describe_built(built: Built) -> dict[str, Any]:
    """A prefix with its manifest."""
    return {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(built, enc_hook=str)}


def tabulate_built(built: Built) -> list[Table]:
    """What a prefix is, and how it is used."""
    manifest = built.manifest
    rows = (
        ("folder", str(built.folder)),
        ("size", format_bytes(built.size_bytes)),
        ("qemu", built.qemu),
        ("Python", f"{manifest.python}, glibc {manifest.libc}, {manifest.sysroot or 'from the distribution'}"),
        ("packages", f"onnxruntime {manifest.onnxruntime}, numpy {manifest.numpy}"),
        ("CPUs", ", ".join(built.cpus)),
        ("new", ", ".join(built.new) or "nothing: it was there already"),
    )
    note = "run there with --provider arm, or arm@qemu:CPU; manifest.json lists what was fetched, with sha256"
    return [Table(title="ARM by emulation", columns=("", ""), rows=rows, left=(0, 1), notes=(note,))]


def describe_image(image: str) -> dict[str, Any]:
    """An image that was built."""
    return {"schema_version": SCHEMA_VERSION, "image": image}


def tabulate_image(image: str) -> list[Table]:
    """The same as a table."""
    note = "run there with --provider arm@docker"
    return [Table(title="ARM by Docker", columns=("", ""), rows=(("image", image),), left=(0, 1), notes=(note,))]


def _describe_one(word: str) -> dict[str, Any]:
    try:
        target = open_target(parse_provider(word))
    except MbdeployError as error:
        return {"provider": word, "emulated": "@local" not in word, "needs": f"{error.found}; {error.todo}"}
    return {"provider": word, "emulated": target.emulated, "needs": ""}
