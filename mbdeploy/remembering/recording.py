"""The act of remembering: every result of output folders, sweeps and files becomes one Parquet file, written once."""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec

from mbdeploy import artifact
from mbdeploy.decoding import decode_json
from mbdeploy.errors import DataError, OutputError, UnavailableError
from mbdeploy.remembering.collecting import (
    Result,
    collect_evaluation,
    collect_parity,
    collect_runs,
    collect_sweep,
)
from mbdeploy.remembering.measurement import COLUMNS, OPTIONAL, Measurement
from mbdeploy.results import SCHEMA_VERSION, BenchRun, EvalReport, ParityReport, decode_result
from mbdeploy.stages.reporting.reading import BENCH, CONFIRMED, EVALUATION, PARITY, SWEEP, Runs, has_models
from mbdeploy.swept import SweepReport

#: Where the history lies if nobody says: beside ``out``, which may be deleted and made again.
FOLDER = Path("history")
_PACKAGES = ("duckdb", "pyarrow")
#: A key that only this kind of result has -> how it is read, and what is taken from it. The first that fits counts.
_KINDS: dict[str, tuple[Any, Callable[..., Iterator[Measurement]]]] = {
    "plan": (SweepReport, collect_sweep),
    "runs": (Runs, lambda result, found: collect_runs(result, found.runs)),
    "reference": (ParityReport, collect_parity),
    "data_digest": (EvalReport, collect_evaluation),
}


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """One result: its file and sha256, and the models and the number of rows that were added: none if it was
    ``known``."""

    file: str
    sha256: str
    models: tuple[str, ...]
    rows: int
    known: bool


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """What ``remember`` did."""

    folder: str
    results: tuple[Recorded, ...]
    schema_version: int = SCHEMA_VERSION


class _Collected(msgspec.Struct, frozen=True, kw_only=True):
    path: Path
    sha256: str
    models: tuple[str, ...]
    rows: int
    encoded: bytes


def remember(outs: Sequence[Path], *, folder: Path = FOLDER, model: str | None = None) -> Recording:
    """Keep the numbers of results in ``folder``: of output folders, sweeps' folders, or single results' files.

    Rules: 1. one result is one Parquet file, named by the sha256 of the result's bytes: the same result twice is one.
    2. A file that is there is never written again. 3. All results are read before the first is written. 4. ``model`` is
    what the numbers are of; without it, the output folder's name, or that of the models' own file.

    Raises:
        UnavailableError: no DuckDB or pyarrow. DataError: nothing to remember, or a file that is no such result.
        OutputError: the folder cannot be written.
    """
    demand_packages()
    now = datetime.now(timezone.utc).replace(tzinfo=None, microsecond=0)
    read = (_collect(*one, model or "", now) for out in outs for one in _list(out))
    found = {one.sha256: one for one in read}
    done = []
    for one in found.values():
        place = folder / f"{one.sha256}.parquet"
        known = place.exists()
        if not known:
            _write(place, one.encoded)
        new = () if known else one.models
        done.append(
            Recorded(file=str(one.path), sha256=one.sha256, models=new, rows=0 if known else one.rows, known=known)
        )
    return Recording(folder=str(folder), results=tuple(done))


def demand_packages() -> None:
    """Refuse where what a history needs is not installed.

    Raises:
        UnavailableError: no DuckDB, or no pyarrow.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UnavailableError(
            where="history",
            expected=" and ".join(_PACKAGES),
            found=f"no {' and no '.join(missing)}",
            todo="run `pip install mbdeploy[history]`",
        )


def make_schema() -> Any:
    """The Arrow schema of the files."""
    import pyarrow

    return pyarrow.schema(
        [pyarrow.field(name, pyarrow.type_for_alias(kind), nullable=name in OPTIONAL) for name, kind in COLUMNS.items()]
    )


def _list(out: Path) -> Iterator[tuple[Path, Path | None]]:
    """The results' files of a folder, each with the output folder that it is of; a single file is its own."""
    if out.is_file():
        above = out.absolute().parent
        yield out, above.parent if above.name == "results" and has_models(above.parent) else None
        return
    found = [out / name for name in (BENCH, CONFIRMED, PARITY, EVALUATION, SWEEP) if (out / name).is_file()]
    if not found:
        raise DataError(
            where=out,
            expected="a result's file, or a folder with results of run, bench, verify, evaluate or sweep",
            found="none of them" if out.is_dir() else "no such file or folder",
            todo="check the path, or run `mbdeploy run` first",
        )
    yield from ((path, None if path.name == SWEEP else out) for path in found)


def _collect(path: Path, folder: Path | None, model: str, now: datetime) -> _Collected:
    try:
        data = path.read_bytes()
        kind, collect = _find_kind(data)
        found = decode_result(data, kind)
        sha256 = hashlib.sha256(data).hexdigest()
        version = _find_version(path, sha256)
        result = Result(path=path, sha256=sha256, folder=folder, model=model, mbdeploy=version, added=now)
        rows = list(collect(result, found))
        models = tuple(dict.fromkeys(row.model for row in rows))
        encoded = _encode(rows)
    except OSError as error:
        raise _refuse(path, error.strerror or str(error)) from error
    except (msgspec.MsgspecError, ValueError, LookupError, ArithmeticError) as error:  # its parts do not fit
        raise _refuse(path, str(error) or type(error).__name__) from error
    if not rows:
        raise _refuse(path, "one without any number")
    return _Collected(path=path, sha256=sha256, models=models, rows=len(rows), encoded=encoded)


def _find_kind(data: bytes) -> tuple[Any, Callable[..., Iterator[Measurement]]]:
    whole: Any = decode_json(data, dict[str, msgspec.Raw] | list[msgspec.Raw])  # type: ignore[arg-type]
    if isinstance(whole, list):  # as a run of the pipeline saves its times
        return list[BenchRun], collect_runs
    for key, kind in _KINDS.items():
        if key in whole:
            return kind
    raise ValueError("something else")


def _find_version(path: Path, sha256: str) -> str:
    """The version of mbdeploy that measured, as the result's own sidecar says it."""
    sidecar = artifact.read_sidecar(path)
    same = sidecar is not None and sidecar.sha256 == sha256
    return sidecar.provenance.tools.get("mbdeploy", "") if sidecar is not None and same else ""


def _write(place: Path, encoded: bytes) -> None:
    try:
        artifact.write_bytes(place, encoded)
    except OutputError as error:
        raise OutputError(
            where=place.parent,
            expected=error.expected,
            found=error.found,
            todo=error.todo.replace("--output", "--folder"),
        ) from error


def _encode(rows: Sequence[Measurement]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    stream = io.BytesIO()
    table = pyarrow.Table.from_pylist([msgspec.structs.asdict(row) for row in rows], schema=make_schema())
    parquet.write_table(table, stream)
    return stream.getvalue()


def _refuse(path: Path, found: str) -> DataError:
    return DataError(
        where=path,
        expected="a result of bench, verify, evaluate or sweep, as this version of mbdeploy writes it",
        found=found,
        todo="name another file, or measure it again",
    )
