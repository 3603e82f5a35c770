"""The report stage: everything that an output folder's files say, derived again each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mbdeploy import artifact
from mbdeploy.errors import DataError, UsageError
from mbdeploy.records import (
    ExportRecord,
    QuantizeRecord,
    SimplifyRecord,
)
from mbdeploy.results import (
    SCHEMA_VERSION,
    BenchRun,
    Check,
    EvalReport,
    ParityReport,
    decode_result,
)
from mbdeploy.stages import figures, sections
from mbdeploy.stages.facts import (
    AccuracyFacts,
    LatencyFacts,
    ParityFact,
    derive_accuracy,
    derive_latency,
    derive_parity,
)
from mbdeploy.stages.tables import Table, format_bytes, render_json, render_tables
from mbdeploy.stages.verdict import Verdict, judge_int8

T = TypeVar("T")
FORMATS = ("table", "md", "json")
SEEDED = "SEEDED WEIGHTS: this network has learnt nothing, and no accuracy is claimed."
#: The files of a folder in the order of the stages, and the record in each one's sidecar.
_RECORDS: dict[str, type[Any]] = {"fp32": ExportRecord, "simplified": SimplifyRecord, "int8": QuantizeRecord}


class FileFact(msgspec.Struct, frozen=True, kw_only=True):
    """A model file of the folder, as its sidecar vouches for it."""

    name: str
    size_bytes: int
    sha256: str
    tools: dict[str, str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about one model. A part that has not been measured is None or empty."""

    model: str
    trained: bool | None
    files: tuple[FileFact, ...]
    export: ExportRecord | None
    simplify: SimplifyRecord | None
    quantize: QuantizeRecord | None
    parity: tuple[ParityFact, ...]
    checks: tuple[Check, ...]
    latency: tuple[LatencyFacts, ...]
    accuracy: tuple[AccuracyFacts, ...]
    verdicts: tuple[Verdict, ...] = ()
    schema_version: int = SCHEMA_VERSION


def report(out: Path, *, format: str = "table", color: bool = False) -> str:
    """The report on an output folder: ``table`` (terminal text, 80 columns), ``md`` or ``json``.

    Raises:
        UsageError: another format. DataError: no output folder, or a file in it that cannot be read.
    """
    if format not in FORMATS:
        raise UsageError(
            where=format, expected=f"a format ({', '.join(FORMATS)})", found="another word", todo="choose one"
        )
    found = read_report(out)
    if format == "json":
        return render_json(found)
    title = f"# {found.model}\n\n" if format == "md" else ""
    return title + render_tables(tabulate_report(found), format=format, color=color)


def read_report(out: Path) -> Report:
    """Everything that the sidecars and ``results/*.json`` of a folder say; a pure function of these files.

    Raises:
        DataError: no output folder, or a file in it that cannot be read.
    """
    sidecars = {stem: artifact.read_sidecar(out / f"{stem}.onnx") for stem in _RECORDS}
    present = {stem: sidecar for stem, sidecar in sidecars.items() if sidecar is not None}
    if not present:
        raise DataError(
            where=out,
            expected="a folder that `mbdeploy run` has written",
            found="no fp32.onnx, simplified.onnx or int8.onnx with its sidecar" if out.is_dir() else "no such folder",
            todo="check the path, or run `mbdeploy run` first",
        )
    records: dict[str, Any] = {
        stem: _decode(out / f"{stem}.onnx.json", sidecar.record, _RECORDS[stem]) for stem, sidecar in present.items()
    }
    parity = _read_result(out / "results" / "parity.json", ParityReport)
    runs = _read_result(out / "results" / "bench.json", list[BenchRun]) or []
    evaluation = _read_result(out / "results" / "evaluation.json", EvalReport)
    export = records.get("fp32")
    trained = export.trained if export else None
    checks = parity.checks if parity else ()
    latency = tuple(derive_latency(run) for run in runs)
    accuracy = (derive_accuracy(evaluation),) if evaluation else ()
    return Report(
        model=out.resolve().name,
        trained=trained,
        files=tuple(
            FileFact(
                name=sidecar.file,
                size_bytes=sidecar.size_bytes,
                sha256=sidecar.sha256,
                tools=sidecar.provenance.tools,
            )
            for sidecar in present.values()
        ),
        export=export,
        simplify=records.get("simplified"),
        quantize=records.get("int8"),
        parity=derive_parity(parity) if parity else (),
        checks=checks,
        latency=latency,
        accuracy=accuracy,
        verdicts=judge_int8(latency, checks, accuracy, trained=trained),
    )


def tabulate_report(found: Report) -> list[Table]:
    """The report as tables, in the order of the stages."""
    return [
        _tabulate_files(found),
        *(sections.tabulate_export(found.export) if found.export else ()),
        *(sections.tabulate_simplify(found.simplify) if found.simplify else ()),
        *(sections.tabulate_quantize(found.quantize) if found.quantize else ()),
        *tabulate_results(found),
    ]


def tabulate_results(found: Report) -> list[Table]:
    """Only what was measured: parity and its gates, latency, accuracy."""
    return [
        *figures.tabulate_parity(found.parity),
        *figures.tabulate_checks((*found.checks, *(check for run in found.latency for check in run.checks))),
        *(table for run in found.latency for table in figures.tabulate_latency(run)),
        *(table for data in found.accuracy for table in figures.tabulate_accuracy(data)),
        *figures.tabulate_verdicts(found.verdicts),
    ]


def tabulate_side_by_side(found: Report, baseline: str = "simplified", candidate: str = "int8") -> Table:
    """What a person asks of two files of the report: size, likeness, speed and memory; only what was measured."""
    names = (baseline, candidate)
    sizes = {Path(file.name).stem: file.size_bytes for file in found.files}
    parity = {fact.model: fact.executed for fact in reversed(found.parity)}
    run = found.latency[0] if found.latency else None
    notes = [SEEDED] if found.trained is False else []
    rows = [("size", *(format_bytes(sizes.get(name)) for name in names))]
    if all(parity.get(name) for name in names):
        rows += figures.list_parity_rows([parity[name] for name in names])
    if run is not None:
        rows += figures.list_latency_rows([fact for fact in run.models if fact.model in names])
        notes += figures.describe_run(run)
    title = f"{found.model}: FP32 and INT8 side by side"
    return Table(title=title, columns=("", "FP32", "INT8"), rows=tuple(rows), notes=tuple(notes))


def _tabulate_files(found: Report) -> Table:
    largest = found.files[0].size_bytes
    rows = tuple(
        (file.name, f"{file.size_bytes / 1e6:.2f}", f"{file.size_bytes / largest:.3f}", file.sha256[:12])
        for file in found.files
    )
    notes = (SEEDED,) if found.trained is False else ()
    columns = ("file", "MB", f"of {found.files[0].name}", "sha256")
    return Table(title=f"Files of {found.model}", columns=columns, rows=rows, notes=notes)


def _read_result(path: Path, kind: type[T]) -> T | None:
    try:
        return _decode(path, path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _refuse(path, error.strerror or str(error)) from error


def _decode(path: Path, data: bytes | msgspec.Raw, kind: type[T]) -> T:
    try:
        return decode_result(bytes(data), kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise _refuse(path, str(error)) from error


def _refuse(path: Path, found: str) -> DataError:
    return DataError(
        where=path,
        expected="a result as this version of mbdeploy writes it",
        found=found,
        todo="make it again with `mbdeploy run --force`",
    )
