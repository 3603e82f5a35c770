"""How each number can be derived again: the file with the raw values, and the command that makes it anew."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from mbdeploy import artifact
from mbdeploy.calls import Call
from mbdeploy.results import BenchRun
from mbdeploy.stages.reporting.commands import join_words, write_command
from mbdeploy.stages.reporting.reading import (
    BENCH,
    CALIBRATION,
    CONFIRMED,
    EVALUATION,
    EXPLANATION,
    MATRIX,
    PARITY,
    Saved,
)
from mbdeploy.stages.reporting.recalling import (
    recall_bench,
    recall_calibration,
    recall_evaluation,
    recall_explanation,
    recall_matrix,
    recall_parity,
    recall_quantize,
    recall_search,
)
from mbdeploy.stages.tables import Table

COLUMNS = ("what", "file", "fields", "sha256", "to measure it again")


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a file, which of its fields hold it, and the call that writes ``output`` (the file itself where
    that is None). ``guessed``: an older version saved the file without its call, and this one may lack options."""

    what: str
    file: str
    fields: str
    call: Call
    output: str | None = None
    guessed: bool = False


def tabulate_origins(saved: Saved) -> Table:
    """One row a saved file and call: what follows from it, which of its fields hold it, its sha256 and its command."""
    origins = [origin for origin in list_origins(saved) if (saved.folder / origin.file).is_file()]
    rows = tuple(
        (
            origin.what,
            origin.file,
            origin.fields,
            artifact.digest_file(saved.folder / origin.file)[:12],
            write_command(origin.call, saved.folder / (origin.output or origin.file)),
        )
        for origin in origins
    )
    again = join_words(["mbdeploy", "report", str(saved.folder), "--format", "json"])
    notes = [f"To derive every number again from these files: {again}"]
    if guessed := [origin.file for origin in origins if origin.guessed]:
        notes.append(
            f"An older version saved {', '.join(guessed)} without all that it was told: these commands say what is "
            "known, and may measure something else."
        )
    return Table(title="Where each number is from", columns=COLUMNS, rows=rows, notes=tuple(notes), left=(0, 1, 2, 4))


def list_origins(saved: Saved) -> Iterator[Origin]:
    """Every file that numbers are from, in the order of the stages; those that are not there included."""
    if saved.quantize is not None:
        yield Origin(
            what="layers, ranges, scales",
            file="int8.onnx.json",
            fields="record.layers, record.float_nodes",
            call=recall_quantize(saved, saved.quantize),
            output="int8.onnx",
        )
    for file, parity in saved.parities.items():
        yield Origin(
            what="parity, gates, placement",
            file=file,
            fields="rows[].metrics, checks, layers" if parity.layers else "rows[].metrics, checks",
            call=parity.call or recall_parity(parity),
            guessed=parity.call is None,
        )
    if saved.matrix is not None:
        yield Origin(
            what="ways to open a session",
            file=MATRIX,
            fields="rows[].reference",
            call=saved.matrix.call or recall_matrix(saved.folder, saved.matrix),
            guessed=saved.matrix.call is None,
        )
    yield from _list_runs("times, ratios, memory", BENCH, saved.runs)
    yield from _list_runs("the same again in full, by check", CONFIRMED, saved.confirmed)
    if saved.explanation is not None:
        yield Origin(
            what="time of each layer",
            file=EXPLANATION,
            fields="models[].layers",
            call=saved.explanation.call or recall_explanation(saved.explanation),
            guessed=saved.explanation.call is None,
        )
    if saved.evaluation is not None:
        yield Origin(
            what="accuracy",
            file=EVALUATION,
            fields="models[].predictions",
            call=saved.evaluation.call or recall_evaluation(saved.evaluation),
            guessed=saved.evaluation.call is None,
        )
    for file, search in saved.searches.items():
        yield Origin(
            what="INT8 within goals",
            file=file,
            fields="turns, timed, made[].sqnr_db",
            call=search.call or recall_search(saved, search),
            output=file.replace(".mix.json", ".onnx"),
            guessed=search.call is None,
        )
    yield Origin(
        what="histograms",
        file=CALIBRATION,
        fields="counts_*, range_*",
        call=recall_calibration(saved),
        output=CALIBRATION.rpartition("/")[0],
    )


def _list_runs(what: str, file: str, runs: tuple[BenchRun, ...]) -> Iterator[Origin]:
    """One origin a call: its runs differ in their provider, threads and batch only."""
    calls: list[tuple[Call, bool]] = []
    for run in runs:
        found = (run.call or recall_bench(runs), run.call is None)
        calls += [found] if found not in calls else []
    for call, guessed in calls:
        yield Origin(what=what, file=file, fields="series[].wall_ns, cpu_ns", call=call, guessed=guessed)


def list_missing(saved: Saved) -> list[tuple[str, str]]:
    """What this report does not have because it was not measured, and the command that would."""
    folder = saved.folder
    models = tuple(str(folder / f"{stem}.onnx") for stem in saved.sidecars)
    verify = (saved.parity and saved.parity.call) or Call(command="verify", arguments=models)
    known: tuple[tuple[str, bool, Call, str | None], ...] = (
        ("latency", not saved.runs, Call(command="bench", arguments=models[-2:]), BENCH),
        (
            "time of each layer, FP32 against INT8",
            saved.explanation is None,
            Call(command="bench", arguments=models[-2:], options={"explain": True}),
            EXPLANATION,
        ),
        ("parity", saved.parity is None, verify, PARITY),
        (
            "accuracy on labelled images",
            saved.evaluation is None and not (saved.export and saved.export.trained is False),
            Call(command="evaluate", arguments=models, options={"data": "DIR|CSV"}),
            EVALUATION,
        ),
        (
            "SQNR of every layer along the network",
            saved.quantize is not None and not (saved.parity and saved.parity.layers),
            msgspec.structs.replace(verify, options={**verify.options, "layers": True}),
            PARITY,
        ),
        (
            "every way to open a session",
            saved.matrix is None,
            Call(
                command="verify", arguments=models, options={"matrix": True, "budgets": verify.options.get("budgets")}
            ),
            MATRIX,
        ),
        (
            "histograms of activations",
            not (folder / CALIBRATION).is_file(),
            Call(command="calibrate", arguments=(str(folder / "simplified.onnx"),), options={"calibration": "DATA"}),
            None,
        ),
    )
    return [
        (what, write_command(call, folder / file if file else None)) for what, missing, call, file in known if missing
    ]
