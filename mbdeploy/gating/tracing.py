"""Where gates that failed begin to fail: traced once, and kept beside the results that they are about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.card import ModelCard
from mbdeploy.gating.report import Gate
from mbdeploy.isolate import ignore_progress
from mbdeploy.provenance.manifest import renew_manifest
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.matrix import verify_matrix

#: The gates over outputs, which alone have a first node.
_TRACEABLE = frozenset({"MB401", "MB402", "MB403", "MB404"})
_TRACE = "results/trace.json"


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """Where one variant begins to diverge on one provider."""

    variant: str
    provider: str
    divergences: tuple[Divergence, ...]


def trace_failures(
    card: ModelCard, folder: Path, gates: Sequence[Gate], options: dict[str, Any]
) -> tuple[Divergence, ...]:
    """The first node that diverges for every variant and provider of ``folder`` whose gate failed."""
    failed = list_failed(gates)
    if not failed:
        return ()
    path, provenance = folder / _TRACE, _plan(card, folder, failed)
    if not artifact.is_fresh(path, provenance):
        keep_traced(card, folder, trace(card, folder, failed, options))
    return artifact.read_result(path, tuple[Divergence, ...])


def list_failed(gates: Sequence[Gate]) -> list[tuple[str, str]]:
    """Variants and providers with a gate that failed and can be traced, in order."""
    return sorted({(g.variant, g.provider) for g in gates if g.check.passed is False and g.rule in _TRACEABLE})


def keep_traced(card: ModelCard, folder: Path, traced: Sequence[Traced]) -> tuple[Divergence, ...]:
    """Keep what was traced, in order, beside the results that it is about; all of its divergences."""
    ordered = sorted(traced, key=lambda one: (one.variant, one.provider))
    found = tuple(divergence for one in ordered for divergence in one.divergences)
    failed = [(one.variant, one.provider) for one in ordered]
    artifact.write_result(folder / _TRACE, _plan(card, folder, failed), found)
    renew_manifest(folder)
    return found


def _plan(card: ModelCard, folder: Path, failed: Sequence[tuple[str, str]]) -> Provenance:
    return Provenance(
        stage="trace",
        params={"failed": failed, "budgets": msgspec.to_builtins(card.budgets)},
        parents={
            name: artifact.digest_file(folder / name)
            for name in ("golden.npz", *(f"{variant}.onnx" for variant, _ in failed))
        },
        tools=artifact.read_tools("onnxruntime", "numpy"),
    )


def trace(card: ModelCard, folder: Path, failed: Sequence[tuple[str, str]], options: dict[str, Any]) -> list[Traced]:
    """Run what failed again, node by node; nothing is kept."""
    found = []
    for variant, provider in failed:
        report = verify_matrix(
            [folder / f"{variant}.onnx"],
            golden=folder / "golden.npz",
            providers=[provider.partition(" ")[0]],
            budgets=card.budgets,
            threads=options.get("threads", 1),
            allow_fallback=options.get("allow_fallback", False),
            on_progress=options.get("on_progress", ignore_progress),
        )
        found.append(Traced(variant=variant, provider=provider, divergences=report.divergences))
    return found
