"""What workers do for a sweep: make the files of one variant and judge them, or time them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Provenance
from mbdeploy.card import load_card
from mbdeploy.derive import estimate_accuracy
from mbdeploy.errors import ModelError
from mbdeploy.estimate import Interval
from mbdeploy.isolate import Progress
from mbdeploy.results import ParityRow
from mbdeploy.stages import export, quantize, simplify
from mbdeploy.stages.bench import bench
from mbdeploy.stages.evaluate import evaluate
from mbdeploy.stages.inspect import inspect
from mbdeploy.stages.verify import verify

#: How long an item waits for another one that is at work on the same variant.
WAIT_S = 3600.0


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a variant: ``recipe`` is "fp32" for the one that the others are made from. ``sqnr_db`` is against
    torch over the golden images; ``top1`` is None without labels or trained weights."""

    recipe: str
    path: str
    sha256: str
    size_bytes: int
    sqnr_db: float
    top1: Interval | None = None

    def is_whole(self) -> bool:
        """Whether the file is still there and still the same."""
        return Path(self.path).is_file() and artifact.digest_file(Path(self.path)) == self.sha256


class Built(msgspec.Struct, frozen=True, kw_only=True):
    """A variant's files and its multiply-adds."""

    macs: int
    parameters: int
    files: tuple[Made, ...]

    def is_whole(self) -> bool:
        """Whether the files are still there and still the same."""
        return all(made.is_whole() for made in self.files)


def build_variant(request: dict[str, Any], on_progress: Progress) -> Built:
    """Export, simplify and quantize ``request["card"]`` into ``request["folder"]``; what is fresh there is kept."""
    folder, card = Path(request["folder"]), load_card(request["card"])
    with artifact.lock_folder(folder, wait_s=WAIT_S):
        fp32, simplified, golden = (folder / name for name in ("fp32.onnx", "simplified.onnx", "golden.npz"))
        _make(
            (fp32, golden),
            export.plan(card.path),
            lambda: export.export(card.path, output=fp32, on_progress=on_progress),
        )
        _make(
            (simplified,),
            simplify.plan(fp32, golden=golden),
            lambda: simplify.simplify(fp32, output=simplified, golden=golden, on_progress=on_progress),
        )
        paths = {"fp32": simplified}
        for recipe in request["recipes"]:
            paths[recipe] = folder / f"{recipe}.onnx"
            _quantize(simplified, paths[recipe], {**request["quantize"], "recipe": recipe}, on_progress)
        parity = verify(list(paths.values()), golden=golden, on_progress=on_progress)
        counted = inspect(simplified)
        top1: dict[str, Interval] = {}
        if request["data"] is not None:
            report = evaluate(list(paths.values()), on_progress=on_progress, **request["data"])
            top1 = {recipe: estimate_accuracy(report, index) for index, recipe in enumerate(paths)}
    sqnr = {row.model.sha256: row.metrics.sqnr_db for row in reversed(parity.rows) if is_as_run(row)}
    made = []
    for recipe, path in paths.items():
        sha256 = artifact.digest_file(path)
        made.append(
            Made(
                recipe=recipe,
                path=str(path),
                sha256=sha256,
                size_bytes=path.stat().st_size,
                sqnr_db=sqnr[sha256],
                top1=top1.get(recipe),
            )
        )
    return Built(macs=counted.total.macs, parameters=counted.total.parameters, files=tuple(made))


def time_variant(request: dict[str, Any], on_progress: Progress) -> Any:
    """Time ``request["models"]``, the first of which is the baseline: one BenchRun.

    Raises:
        ModelError: files that are not those whose digests were given.
    """
    paths = [Path(path) for path in request["models"]]
    for path, sha256 in zip(paths, request["digests"], strict=True):
        artifact.check_digest(ModelError, path, artifact.digest_file(path), sha256)
    return bench(paths, on_progress=on_progress, **request["bench"])[0]


def _quantize(model: Path, output: Path, given: dict[str, Any], on_progress: Progress) -> None:
    provenance = quantize.plan(model, **given)
    _make((output,), provenance, lambda: quantize.quantize(model, output=output, on_progress=on_progress, **given))


def _make(outputs: tuple[Path, ...], provenance: Provenance, work: Callable[[], Any]) -> None:
    if not all(artifact.is_fresh(output, provenance) for output in outputs):
        work()


def is_as_run(row: ParityRow) -> bool:
    """Whether a row is of the file as it runs, against the golden outputs."""
    return row.mode == "executed" and row.against == "reference"
