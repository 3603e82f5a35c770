"""What an output folder holds, as it was saved: records in sidecars, raw results, observations of a calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.artifact import Sidecar
from mbdeploy.errors import DataError
from mbdeploy.mixing.report import MixReport
from mbdeploy.records import ExportRecord, QuantizeRecord, SimplifyRecord
from mbdeploy.results import SCHEMA_VERSION, BenchRun, EvalReport, ParityReport
from mbdeploy.stages.bench_explain import ExplainResult
from mbdeploy.stages.matrix import MatrixReport
from mbdeploy.swept import SweepReport

#: The files of a folder in the order of the stages, and the record in each one's sidecar.
_RECORDS: dict[str, type[Any]] = {"fp32": ExportRecord, "simplified": SimplifyRecord, "int8": QuantizeRecord}
PARITY, BENCH, EXPLANATION, EVALUATION, MATRIX = (
    f"results/{name}.json" for name in ("parity", "bench", "explain", "evaluation", "matrix")
)
#: What ``mbdeploy check`` leaves: times that it measured again in full, and those beside another version's INT8 file.
CONFIRMED, BESIDE = "results/bench-confirm.json", "results/bench-baseline.json"
#: Where ``mbdeploy check`` keeps the parity on emulated CPUs, one file each.
EMULATED = "results/parity-*.json"
#: What ``mbdeploy sweep`` writes into its folder.
SWEEP = "sweep.json"
#: What ``mbdeploy quantize`` with a goal writes beside its file.
SEARCHES = "*.mix.json"
#: Where ``mbdeploy calibrate`` writes beside our own files if nobody says.
CALIBRATION = "simplified.calibration/calibration.npz"


class Saved(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's files as they are: nothing here is derived. What the folder does not hold is None or empty.

    ``emulated`` are parities that ``mbdeploy check`` keeps apart, and ``searches`` those for INT8 within goals, both by
    the names of their files. ``confirmed`` are runs that ``check`` made in full where the pipeline's quick ones did not
    pass.
    """

    folder: Path
    sidecars: dict[str, Sidecar]
    export: ExportRecord | None
    simplify: SimplifyRecord | None
    quantize: QuantizeRecord | None
    parity: ParityReport | None
    runs: tuple[BenchRun, ...]
    explanation: ExplainResult | None
    evaluation: EvalReport | None
    matrix: MatrixReport | None
    emulated: dict[str, ParityReport] = {}
    searches: dict[str, MixReport] = {}
    confirmed: tuple[BenchRun, ...] = ()

    @property
    def parities(self) -> dict[str, ParityReport]:
        """Every parity by its file: a provider's own file counts only where the first one is not of that provider."""
        first = {PARITY: self.parity} if self.parity is not None else {}
        known = self.parity.hosts if self.parity is not None else {}
        return {**first, **{file: one for file, one in self.emulated.items() if not one.hosts.keys() <= known.keys()}}


class SavedSweep(msgspec.Struct, frozen=True, kw_only=True):
    """A sweep's folder and what ``mbdeploy sweep`` wrote there."""

    folder: Path
    report: SweepReport


class Runs(msgspec.Struct, frozen=True):
    """What ``mbdeploy bench -o`` saves; a pipeline saves the runs alone."""

    runs: tuple[BenchRun, ...]
    schema_version: int = SCHEMA_VERSION


def read_sweep(folder: Path) -> SavedSweep | None:
    """The sweep that lies in a folder, if one does.

    Raises:
        DataError: a file that cannot be read.
    """
    report = _read(folder / SWEEP, SweepReport, "mbdeploy sweep")
    return None if report is None else SavedSweep(folder=folder, report=report)


def list_results(folder: Path) -> list[Path]:
    """What a report on ``folder`` reads besides its models and their sidecars, as far as it is there."""
    names = (PARITY, BENCH, CONFIRMED, EXPLANATION, EVALUATION, MATRIX, CALIBRATION)
    return [path for path in (folder / name for name in names) if path.is_file()] + [
        *_list_emulated(folder),
        *sorted(folder.glob(SEARCHES)),
    ]


def has_models(folder: Path) -> bool:
    """Whether a folder holds a model file with its sidecar."""
    return any(artifact.read_sidecar(folder / f"{stem}.onnx") is not None for stem in _RECORDS)


def read_saved(folder: Path) -> Saved:
    """Read the sidecars and ``results/*.json`` of a folder.

    Raises:
        DataError: no output folder, or a file in it that cannot be read.
    """
    found = {stem: artifact.read_sidecar(folder / f"{stem}.onnx") for stem in _RECORDS}
    sidecars = {stem: sidecar for stem, sidecar in found.items() if sidecar is not None}
    if not sidecars:
        raise DataError(
            where=folder,
            expected="a folder that `mbdeploy run` has written",
            found="no fp32.onnx, simplified.onnx or int8.onnx with its sidecar"
            if folder.is_dir()
            else "no such folder",
            todo="check the path, or run `mbdeploy run` first",
        )
    records: dict[str, Any] = {
        stem: artifact.decode_saved(folder / f"{stem}.onnx.json", sidecar.record, _RECORDS[stem])
        for stem, sidecar in sidecars.items()
    }
    return Saved(
        folder=folder,
        sidecars=sidecars,
        export=records.get("fp32"),
        simplify=records.get("simplified"),
        quantize=records.get("int8"),
        parity=_read(folder / PARITY, ParityReport),
        runs=_read_runs(folder / BENCH),
        explanation=_read(folder / EXPLANATION, ExplainResult),
        evaluation=_read(folder / EVALUATION, EvalReport),
        matrix=_read(folder / MATRIX, MatrixReport),
        searches={
            path.name: artifact.read_result(path, MixReport, "mbdeploy quantize")
            for path in sorted(folder.glob(SEARCHES))
        },
        confirmed=_read_runs(folder / CONFIRMED),
        emulated=_read_emulated(folder),
    )


def _read_emulated(folder: Path) -> dict[str, ParityReport]:
    read = {
        path.relative_to(folder).as_posix(): _read(path, ParityReport, "mbdeploy check")
        for path in _list_emulated(folder)
    }
    return {name: found for name, found in read.items() if found is not None}


def _list_emulated(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob(EMULATED)) if not path.with_suffix("").is_file()]  # no sidecars


def _read_runs(path: Path) -> tuple[BenchRun, ...]:
    found = _read(path, Runs | list[BenchRun])
    return found.runs if isinstance(found, Runs) else tuple(found or ())


def _read(path: Path, kind: Any, command: str = artifact.REMAKE) -> Any:
    try:
        return artifact.read_result(path, kind, command)
    except DataError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise
