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
from mbdeploy.stages.bisect import Divergence
from mbdeploy.stages.matrix import verify_matrix

#: The gates over outputs, which alone have a first node.
_TRACEABLE = frozenset({"MB401", "MB402", "MB403", "MB404"})


def trace_failures(
    card: ModelCard, folder: Path, gates: Sequence[Gate], options: dict[str, Any]
) -> tuple[Divergence, ...]:
    """The first node that diverges for every variant and provider of ``folder`` whose gate failed."""
    failed = sorted({(g.variant, g.provider) for g in gates if g.check.passed is False and g.rule in _TRACEABLE})
    if not failed:
        return ()
    path = folder / "results/trace.json"
    provenance = Provenance(
        stage="trace",
        params={"failed": failed, "budgets": msgspec.to_builtins(card.budgets)},
        parents={
            name: artifact.digest_file(folder / name)
            for name in ("golden.npz", *(f"{variant}.onnx" for variant, _ in failed))
        },
        tools=artifact.read_tools("onnxruntime", "numpy"),
    )
    return artifact.keep_result(path, provenance, tuple[Divergence, ...], lambda: _trace(card, folder, failed, options))


def _trace(
    card: ModelCard, folder: Path, failed: Sequence[tuple[str, str]], options: dict[str, Any]
) -> list[Divergence]:
    found: list[Divergence] = []
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
        found += report.divergences
    return found
