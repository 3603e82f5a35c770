"""Raw times that a check takes beside the pipeline's: kept in the folder that they are about, and vouched for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mbdeploy import artifact
from mbdeploy.provenance.manifest import renew_manifest
from mbdeploy.results import BenchRun
from mbdeploy.stages import bench


def keep_runs(folder: Path, name: str, models: Sequence[Path], runs: Sequence[BenchRun], **options: Any) -> None:
    """Keep ``runs`` of ``models`` as ``folder/name``; where there are none, what an earlier check left there goes.

    ``options`` are those of ``bench``; the providers are those of the runs. They are kept to derive from, and are never
    fresh: a check takes its own times. A manifest that is there names them, too.
    """
    path = folder / name
    if not runs and not path.is_file():
        return
    if runs:
        asked = {key: value for key, value in options.items() if key not in ("providers", "on_progress")}
        words = list(dict.fromkeys(run.provider.partition(" ")[0] for run in runs))
        provenance = bench.plan(models, providers=words, inputs=folder / "golden.npz", **asked)
        artifact.write_result(path, provenance, list(runs))
    else:
        for old in (artifact.sidecar_path(path), path):
            old.unlink(missing_ok=True)
    renew_manifest(folder)
